"""A training that is killed without warning goes on from a whole checkpoint."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest
from commands import run, start
from drawings import write_pairs

from i2i_trainer.checkpoint import load_checkpoint

ENOUGH = 20
"""Kills of which some hit the writing of a checkpoint."""


@pytest.mark.timeout(900)
@pytest.mark.fault(36)
@pytest.mark.parametrize("kills", [8, pytest.param(ENOUGH, marks=pytest.mark.slow)])
def test_a_training_killed_at_random_moments_always_resumes_from_a_whole_checkpoint(tmp_path, kills):
    # Wide enough that a checkpoint takes about as long to write as a step to compute: many kills hit the writing.
    write_pairs(tmp_path / "data" / "train", 4, 40, 40)
    folder = tmp_path / "run"
    arguments = (
        "pix2pix", "--data", tmp_path / "data", "--out", folder, "--size", 32, "--ngf", 24, "--ndf", 8,
        "--steps", 100_000, "--save-every", 1, "--log-every", 1, "--resume",
    )  # fmt: skip
    moments = random.Random(0)
    steps, partial_files = [], 0

    for _ in range(kills):
        process = start("i2i-train", *arguments)
        for line in process.stderr:
            if "steps" in line:  # the line that introduces the training: it begins now
                break
        time.sleep(moments.uniform(0.0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        partial_files += (folder / ".last.pt.partial").exists()
        if (folder / "last.pt").exists():
            steps.append(load_checkpoint(folder / "last.pt").training_state["step"])

    assert steps == sorted(steps)
    assert len(steps) >= kills - 1
    assert steps[-1] > steps[0]
    assert partial_files > 0 or kills < ENOUGH, "no kill hit the writing of a checkpoint: the test proves too little"

    finished = run("i2i-train", *arguments, "--steps", steps[-1] + 2)
    assert finished.returncode == 0, finished.stderr
    logged = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, steps[-1] + 3)), "each step is logged once, whatever was killed"
