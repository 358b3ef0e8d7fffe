"""The way of a student, through the real commands: from a teacher that is trained to what repeats it, exported."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import here, run
from drawings import drawing, write_pairs
from interpreter import python

from i2i_runtime import Translator
from i2i_runtime.card import Card
from i2i_trainer.trained import load_trained


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with pictures and a teacher."""
    folder = tmp_path_factory.mktemp("student")
    write_pairs(folder / "data" / "train", 6)
    write_pairs(folder / "data" / "val", 2, first_seed=50)
    trained = here(
        "i2i-train", "pix2pix", "--data", folder / "data", "--out", folder / "teacher", "--size", 64, "--ngf", 8,
        "--ndf", 8, "--steps", 40, "--eval-every", 40, "--device", "cpu",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    return folder


@pytest.fixture(scope="module")
def student(home):
    """Of forty steps, in two parts; nothing of what the teacher says is repeated on the command line."""
    line = (
        "--teacher", home / "teacher" / "best.pt", "--data", home / "data", "--student", "student_2blocks,width=16",
        "--out", home / "student", "--device", "cpu",
    )  # fmt: skip
    begun = run("i2i-train", "distill", *line, "--steps", 20, "--eval-every", 20, "--lr", 1e-3)
    ended = here("i2i-train", "distill", *line, "--steps", 40, "--resume")
    assert (begun.returncode, ended.returncode) == (0, 0), begun.stderr + ended.stderr
    return home / "student"


@pytest.fixture(scope="module")
def engine(student):
    exported = here("i2i-export", student / "best.pt", "-o", student / "student.onnx")
    assert exported.returncode == 0, exported.stderr
    return student / "student.onnx"


def test_it_comes_nearer_to_its_teacher_over_both_parts(student):
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]

    measured = {line["step"]: line["val_L1_to_teacher"] for line in lines if "pictures" in line}
    assert list(measured) == [20, 40]
    assert measured[40] < measured[20]


def test_the_export_carries_whose_student_it_is_and_what_it_lost(student, engine):
    card = load_trained(student / "best.pt").card
    exported = Translator(engine).card

    assert exported.student == card.student
    assert (card.student.teacher, card.student.teacher_generator.name) == ("teacher", "unet_64")
    assert Card.from_json(exported.to_json()) == exported


@pytest.mark.parametrize("name", ["best.pt", "student.onnx"])
def test_info_shows_it_in_one_line(student, engine, name):
    shown = here("i2i-export", "--info", student / name)

    record = load_trained(student / "best.pt").card.student
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("student ")]
    assert line.split(maxsplit=1)[1] == (
        f"of teacher (unet_64): PSNR {record.psnr_db:.1f} dB, SSIM {record.ssim:.3f} to it on 2 held-out pictures; "
        f"L1 to the truth {record.truth_l1:.3f}, its teacher's {record.teacher_truth_l1:.3f}"
    )


def test_it_runs_where_there_is_no_torch(engine):
    out = Translator(engine)(drawing(1))

    assert (out.shape, out.dtype) == ((64, 64, 3), np.uint8)


def test_its_help_is_there_without_torch():
    code = """
import atexit, sys
atexit.register(lambda: print({"torch", "numpy", "cv2"} & set(sys.modules)))
from i2i_trainer.cli import main
main()
"""
    said = python(code, "distill", "--help").stdout

    assert "--engine-profile" in said
    assert said.endswith("set()\n")
