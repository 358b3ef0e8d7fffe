"""Several processes under torchrun, here with gloo on the CPU: equal results, and a process that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import environment, run
from drawings import write_labelled, write_pairs, write_unpaired
from untrained import save_untrained

from i2i_trainer.checkpoint import load_checkpoint
from i2i_trainer.data.batches import steps_per_epoch

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

TRAIN = """
import json, sys
import torch
from i2i_trainer.config import RunConfig
from i2i_trainer.loop import train
from i2i_trainer.models import config_type

# In single precision Adam turns rounding noise of gradients that should be zero into steps.
torch.set_default_dtype(torch.float64)
name, run, config = json.loads(sys.argv[1])
run["size"] = tuple(run["size"])
train(name, RunConfig(**run), config_type(name)(**config), resume=None)
"""


def settings(tmp_path: Path) -> dict[str, tuple[dict, dict]]:
    pairs, unpaired, labelled = tmp_path / "pairs", tmp_path / "unpaired", tmp_path / "labelled"
    write_pairs(pairs / "train", 5)
    write_unpaired(unpaired, "train", 5, 4)
    write_labelled(labelled, "train", 5)
    hd = {"ngf": 4, "ndf": 2, "n_downsampling": 2, "n_blocks": 1, "num_D": 2, "n_layers": 2, "n_enhancers": 1}
    return {
        "pix2pix": ({"data": str(pairs)}, {"ngf": 4, "ndf": 4, "norm": "instance", "dropout": 0.0}),
        "cyclegan": ({"data": str(unpaired)}, {"ngf": 2, "ndf": 2, "generator": "resnet_1blocks"}),
        # Two steps of the global generator, one of the enhancer alone, two of both.
        "pix2pixhd": (
            {"data": str(labelled), "label_nc": 4},
            {**hd, "global_share": 0.4, "frozen_share": 0.2, "styles": 2},
        ),
        "distill": (
            {"data": str(pairs)},
            {"teacher": str(save_untrained(tmp_path / "teacher.pt")), "student": "student_2blocks,width=8", "ndf": 4},
        ),
    }


@pytest.mark.parametrize(
    "model_type",
    ["pix2pix", "distill", *(pytest.param(each, marks=pytest.mark.slow) for each in ("cyclegan", "pix2pixhd"))],
)
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, model_type):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    its_run, its_config = settings(tmp_path)[model_type]
    its_run |= {"size": [64, 64], "steps": 5, "lr": 2e-4, "log_every": 1}

    def weights(out: str, processes: int, batch: int, **more):
        arguments = json.dumps([model_type, its_run | {"out": str(tmp_path / out), "batch": batch} | more, its_config])
        command = [*TORCHRUN, str(processes), str(script), arguments]
        finished = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stderr
        return load_checkpoint(tmp_path / out / "last.pt").networks

    alone, together = weights("alone", 1, 2), weights("together", 2, 1)

    assert alone.keys() == together.keys()
    for network in alone:
        for key, weight in alone[network].items():
            torch.testing.assert_close(together[network][key], weight, rtol=0, atol=1e-5)
    losses = [
        [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        for out in ("alone", "together")
    ]
    for one, two in zip(*losses, strict=True):
        one.pop("images_per_s"), two.pop("images_per_s")
        assert two == pytest.approx(one, abs=1e-5)


def test_processes_that_see_other_pictures_end_instead_of_waiting_for_each_other(tmp_path):
    for rank in range(2):
        write_pairs(tmp_path / f"data{rank}" / "train", 4 + rank)
    script = tmp_path / "train.py"
    script.write_text(TRAIN.replace("train(name", "import os\nrun['data'] += os.environ['RANK']\ntrain(name"))
    its_run = {"data": str(tmp_path / "data"), "out": str(tmp_path / "run"), "size": [32, 32], "steps": 5}
    arguments = json.dumps(["pix2pix", its_run, {"ngf": 4, "ndf": 4}])

    finished = subprocess.run(
        [*TORCHRUN, "2", str(script), arguments], env=environment(), capture_output=True, text=True, timeout=120
    )

    assert finished.returncode != 0
    assert "differ in training pictures: 4, 5; do all of them see the same --data" in finished.stderr


@pytest.fixture
def start(tmp_path):
    """Starts a training of two processes that would go on for ever."""
    jobs = []

    def start_job(*torchrun: str) -> subprocess.Popen[str]:
        write_pairs(tmp_path / "data" / "train", 5)
        job = subprocess.Popen(
            [
                *TORCHRUN, "2", *torchrun, "-m", "i2i_trainer", "pix2pix", "--data", str(tmp_path / "data"),
                "--out", str(tmp_path / "run"), "--size", "32", "--ngf", "4", "--ndf", "4", "--steps", "100000",
                "--save-every", "5", "--log-every", "1", "--resume",
            ],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        jobs.append(job)
        return job

    yield start_job
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate()


def process_of_rank(rank: int, folder: Path) -> int:
    for entry in Path("/proc").iterdir():
        try:
            if (
                f"RANK={rank}" in (entry / "environ").read_text().split("\0")
                and str(folder) in (entry / "cmdline").read_text()
            ):
                return int(entry.name)
        except (OSError, UnicodeDecodeError):
            continue
    raise AssertionError(f"no process of rank {rank}")


def last_logged(tmp_path: Path) -> int:
    log = tmp_path / "run" / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def wait_until(condition, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.1)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a process's rank in /proc")


@needs_proc
@pytest.mark.fault(40)
def test_a_killed_process_ends_the_job_and_the_checkpoint_goes_on(tmp_path, start):
    process = start()
    wait_until(lambda: last_logged(tmp_path) >= 8, process)

    os.kill(process_of_rank(1, tmp_path), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)

    assert process.returncode != 0
    assert "another process of this training is gone" in output
    saved = load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"]
    assert saved >= 5
    # What two processes began one can go on with; an epoch has twice the steps then.
    finished = run("i2i-train", "pix2pix", "--out", tmp_path / "run", "--resume", "--steps", saved + 2)
    assert finished.returncode == 0, finished.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == saved + 2


@needs_proc
@pytest.mark.fault(40)
@pytest.mark.slow
def test_torchrun_restarts_the_job_from_the_last_checkpoint_by_itself(tmp_path, start):
    process = start("--max-restarts", "1")
    wait_until(lambda: last_logged(tmp_path) >= 8, process)

    killed_at = last_logged(tmp_path)
    os.kill(process_of_rank(1, tmp_path), signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: last_logged(tmp_path) > killed_at + 50, process)

    assert time.monotonic() - began < 60
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)), "each step once: the job went on from its checkpoint"


def test_an_epoch_of_several_processes_has_fewer_steps():
    assert [steps_per_epoch(400, batch * world) for batch, world in ((1, 1), (1, 4), (2, 4))] == [400, 100, 50]
