"""From ways to a record: measuring/measurement.py and measuring/quality.py."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from onnx_models import make_card, negative_model
from records import ENVIRONMENT
from untrained import save_untrained

from measuring import probes
from measuring.environment import environment
from measuring.measurement import _own_peaks, _version, measure_ways
from measuring.model_contestants import TorchContestant
from measuring.products import Products
from measuring.quality import quality
from measuring.record import Peak
from measuring.rounds import Pace
from measuring.ways import Subject, Wanted, find_ways

WANTED = Wanted(backends=("onnxruntime",), precisions=("fp32",), threads=1)
PACE = Pace(starts=1, rounds=2, seconds=0.0, runs=1, warm_up_s=0.0, rest_s=0.0)


def ways_of(path, size):
    engine = negative_model(path, make_card(size))
    subject = Subject(checkpoint=None, engine=engine, direction=None, is_trained=True, pictures=None)
    return subject, find_ways(subject, WANTED, path.parent, lambda what: None)


def test_sizes_are_measured_one_after_the_other_each_beside_the_yardstick(tmp_path, monkeypatch):
    subject, ways = ways_of(tmp_path / "small.onnx", (16, 16))
    _, others = ways_of(tmp_path / "large.onnx", (24, 16))
    broken = probes.EngineProbe(
        name="conv fp32, a library", products=Products(what="conv", width=1, count=1), path=tmp_path / "nothing.onnx"
    )
    monkeypatch.setattr(probes, "probes", lambda *arguments: [broken])
    shares = []

    record = measure_ways(
        subject, WANTED, replace(ways, ways=[*ways.ways, *others.ways]), PACE, {}, tmp_path,
        environment(sys.argv), lambda what, share: shares.append(share),
    )  # fmt: skip

    rounds = [[(turn.start, turn.round) for turn in row.turns] for row in record.rows]
    assert rounds == [[(0, 0), (0, 1)], [(1, 2), (1, 3)]]
    assert [(turn.start, turn.round) for turn in record.yardstick] == rounds[0] + rounds[1]
    assert shares == sorted(shares)
    assert any(line.startswith("what this machine can do, conv fp32, a library: ") for line in record.left_out)


def test_the_quality_is_that_of_the_worst_picture_and_repeats_are_not_counted(tmp_path):
    _, ways = ways_of(tmp_path / "negative.onnx", (16, 16))
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
    asked = [(pictures[[0, 1]],), (pictures[[2, 0]],)]
    right = [-inputs[0] for inputs in asked]
    answers = [right[0].copy(), right[1].copy()]
    # Of values from -1 to 1, 0.02 is a hundredth of the range: 40 dB.
    answers[0][1] += 0.02

    found = quality(ways.ways[0], asked, answers, right, "PyTorch")

    assert found.pictures == 3
    assert found.psnr_db == pytest.approx(40, abs=0.01)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("conv fp32, TensorRT-RTX", "1.7"),
        ("conv fp32, TensorRT", "10.3"),
        ("short conv fp32, ONNX Runtime CPU", "1.23.2"),
        ("conv fp32 as TF32, PyTorch CUDA", "2.13.0"),
        ("GEMM fp32, NumPy CPU", ""),
    ],
)
def test_a_yardstick_has_the_version_of_its_library(name, version):
    versions = {**ENVIRONMENT.versions, "tensorrt": "10.3", "tensorrt-rtx-cu13-bindings": "1.7"}

    assert _version(name, replace(ENVIRONMENT, versions=versions)) == version


def test_tensorrt_is_not_held_against_a_peak_that_is_rounded_to_tf32(tmp_path):
    _, ways = ways_of(tmp_path / "negative.onnx", (16, 16))
    plain = Peak(what="conv", name="plain", device="cpu", precision="fp32", per_second=1.0, spread=(1.0, 1.0))
    rounded = replace(plain, is_tf32=True)
    row = ways.ways[0].row

    assert _own_peaks(row, [plain, rounded]) == [plain, rounded]
    assert _own_peaks(replace(row, backend="tensorrt-rtx"), [plain, rounded]) == [plain]


@pytest.mark.parametrize(
    ("settings", "may_round"),
    [({}, False), ({"precision": "bf16"}, True), ({"is_compiled": True}, True)],
)
def test_only_what_others_are_compared_with_is_not_rounded_and_cudnn_is_never_left_out(tmp_path, settings, may_round):
    import torch

    checkpoint = save_untrained(tmp_path / "best.pt")
    contestant = TorchContestant(name="torch", checkpoint=checkpoint, size=(32, 32), **settings)
    seen = []

    def generator(image):
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        return image

    with contestant.open() as running:
        running._generator = generator
        running.answer([np.zeros((1, 3, 32, 32), np.float32)])

    assert seen == [(True, may_round)]
