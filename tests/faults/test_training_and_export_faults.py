"""Bad input to i2i-train and i2i-export: one line, the right exit code, nothing lost."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from commands import run, the_error_line
from drawings import drawing, write_pairs

from i2i_trainer.checkpoint import load_checkpoint, save_checkpoint

TINY = ("--size", 32, "--ngf", 4, "--ndf", 4, "--steps", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    write_pairs(folder / "data" / "train", 2, 40, 40)
    finished = run("i2i-train", "pix2pix", "--data", folder / "data", "--out", folder / "run", *TINY)
    assert finished.returncode == 0, finished.stderr
    return folder / "run" / "last.pt"


def train_on(data, out):
    return run("i2i-train", "pix2pix", "--data", data, "--out", out, *TINY)


def test_a_missing_data_folder(tmp_path):
    finished = train_on(tmp_path / "nowhere", tmp_path / "run")

    assert finished.returncode == 3
    assert "nowhere: no such data folder; expected DIR/train" in the_error_line(finished)
    assert not (tmp_path / "run").exists()


def test_an_empty_data_folder(tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)

    finished = train_on(tmp_path / "data", tmp_path / "run")

    assert finished.returncode == 3
    assert "no training pictures; expected DIR/train" in the_error_line(finished)


def test_a_truncated_jpeg_among_the_training_pictures(tmp_path):
    folder = write_pairs(tmp_path / "data" / "train", 2, 40, 40)
    cv2.imwrite(str(folder / "cut.jpg"), drawing(1, 40, 80))
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-100])

    refused = train_on(tmp_path / "data", tmp_path / "run")
    left_out = run("i2i-train", "pix2pix", "--data", tmp_path / "data", "--out", tmp_path / "run", *TINY,
                   "--skip-unreadable")  # fmt: skip

    assert refused.returncode == 3
    assert "cut.jpg: truncated JPEG" in the_error_line(refused)
    assert left_out.returncode == 0, left_out.stderr
    assert "2 pairs" in left_out.stderr


def test_pairs_of_unequal_number(tmp_path):
    for folder, count in (("trainA", 3), ("trainB", 2)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(tmp_path / "data" / folder / f"{number}.png"), drawing(number, 40, 40))

    finished = train_on(tmp_path / "data", tmp_path / "run")

    assert finished.returncode == 3
    assert "found 3 and 2; 1 have no partner, for example 2" in the_error_line(finished)


def test_pairs_of_unequal_size(tmp_path):
    for folder, width in (("trainA", 40), ("trainB", 44)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / folder / "ok.png"), drawing(1, 40, 40))
        cv2.imwrite(str(tmp_path / "data" / folder / "uneven.png"), drawing(1, 40, width))

    finished = train_on(tmp_path / "data", tmp_path / "run")

    assert finished.returncode == 3
    assert "one size, found 40x40 here and 44x40 in" in the_error_line(finished)


def test_a_run_folder_that_cannot_be_written(tmp_path):
    write_pairs(tmp_path / "data" / "train", 2, 40, 40)
    (tmp_path / "file").write_text("in the way")

    finished = train_on(tmp_path / "data", tmp_path / "file" / "run")

    assert finished.returncode == 5
    assert "expected a folder that can be written" in the_error_line(finished)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_size_the_generator_does_not_take(tmp_path):
    write_pairs(tmp_path / "data" / "train", 2, 40, 40)

    finished = run("i2i-train", "pix2pix", "--data", tmp_path / "data", "--out", tmp_path / "run", "--size", 100)

    assert finished.returncode == 2
    assert "100x100: a U-Net needs multiples of 32" in the_error_line(finished)


def test_a_discriminator_too_deep_for_the_images(tmp_path):
    write_pairs(tmp_path / "data" / "train", 2, 40, 40)

    finished = run("i2i-train", "pix2pix", "--data", tmp_path / "data", "--out", tmp_path / "run", *TINY,
                   "--n-layers", 5)  # fmt: skip

    assert finished.returncode == 2
    assert "--n-layers 5: images of 32x32 leave the PatchGAN nothing" in the_error_line(finished)
    assert not (tmp_path / "run").exists()


def test_images_too_large_for_the_memory(tmp_path):
    write_pairs(tmp_path / "data" / "train", 1, 40, 40)

    finished = run("i2i-train", "pix2pix", "--data", tmp_path / "data", "--out", tmp_path / "run", *TINY,
                   "--size", 2**20)  # fmt: skip

    assert finished.returncode == 6
    assert "out of memory; use a smaller --size" in the_error_line(finished)


@pytest.mark.fault(35)
def test_a_checkpoint_cut_in_half_is_neither_resumed_nor_exported(trained, tmp_path):
    (tmp_path / "run").mkdir()
    cut = tmp_path / "run" / "last.pt"
    cut.write_bytes(trained.read_bytes()[: trained.stat().st_size // 2])

    resumed = run("i2i-train", "pix2pix", "--out", tmp_path / "run", "--resume")
    exported = run("i2i-export", cut, "-o", tmp_path / "model.onnx")

    assert (resumed.returncode, exported.returncode) == (4, 4)
    assert "not a whole checkpoint" in the_error_line(resumed)
    assert "not a whole checkpoint" in the_error_line(exported)
    assert not (tmp_path / "model.onnx").exists()


def test_exporting_a_missing_checkpoint(tmp_path):
    finished = run("i2i-export", tmp_path / "none.pt")

    assert finished.returncode == 4
    assert "none.pt: no such checkpoint" in the_error_line(finished)


def test_exporting_at_a_size_the_generator_does_not_take(trained, tmp_path):
    finished = run("i2i-export", trained, "-o", tmp_path / "model.onnx", "--size", 48)

    assert finished.returncode == 2
    assert "unet_32 takes multiples of 32" in the_error_line(finished)


def test_exporting_into_a_folder_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("in the way")

    finished = run("i2i-export", trained, "-o", tmp_path / "file" / "model.onnx")

    assert finished.returncode == 5
    assert "expected a folder that can be written" in the_error_line(finished)


def test_an_export_that_differs_too_much_leaves_the_model_before(trained, tmp_path):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"the model before")

    finished = run("i2i-export", trained, "-o", target, "--tolerance", 0)

    assert finished.returncode == 4
    assert "differs by" in the_error_line(finished)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert target.read_bytes() == b"the model before"


def test_weights_that_are_no_numbers_are_not_exported(trained, tmp_path):
    checkpoint = load_checkpoint(trained)
    checkpoint.networks["G"]["model.model.3.bias"].fill_(torch.nan)
    save_checkpoint(tmp_path / "nan.pt", checkpoint)

    finished = run("i2i-export", tmp_path / "nan.pt", "-o", tmp_path / "model.onnx")

    assert finished.returncode == 4
    assert "the generator returns NaN or infinity" in the_error_line(finished)
    assert not (tmp_path / "model.onnx").exists()


def test_a_broken_picture_for_the_proof(trained, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(np.random.default_rng(0).bytes(100))

    finished = run("i2i-export", trained, "-o", tmp_path / "model.onnx", "--pictures", tmp_path / "pictures")

    assert finished.returncode == 3
    assert "none of 1 pictures could be read" in the_error_line(finished)
