"""The training loop: schedule, resume, what it leaves behind, how it stops."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict, replace

import cv2
import pytest
import torch
from commands import run, start, the_error_line
from drawings import write_pairs

from i2i_runtime.command import StopRequest
from i2i_runtime.errors import DeviceError, DivergedError, SinkError, SourceError, UsageError
from i2i_trainer import loop
from i2i_trainer.checkpoint import load_checkpoint
from i2i_trainer.config import RunConfig
from i2i_trainer.loop import Training, lr_factor, pick_device, schedule_steps, train
from i2i_trainer.models import config_type, model_names
from i2i_trainer.record import Recorder

TINY = {"ngf": 4, "ndf": 4}


@pytest.fixture
def data(tmp_path):
    write_pairs(tmp_path / "data" / "train", 5, 70, 70)
    write_pairs(tmp_path / "data" / "val", 2, 70, 70, first_seed=100)
    return tmp_path / "data"


@pytest.fixture
def settings(data, tmp_path):
    return RunConfig(
        data=str(data), out=str(tmp_path / "run"), size=(32, 32), steps=12, device="cpu",
        log_every=1, sample_every=6, eval_every=4, save_every=5,
    )  # fmt: skip


def tiny(model_type: str):
    return config_type(model_type)(**TINY)


def metrics(run_config: RunConfig) -> list[dict]:
    with open(f"{run_config.out}/metrics.jsonl") as file:  # noqa: PTH123
        return [json.loads(line) for line in file]


def assert_same(one, another, where="state"):
    """Bit for bit, through dicts, lists and tensors."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, another), where
    elif isinstance(one, dict):
        assert one.keys() == another.keys(), where
        for key in one:
            assert_same(one[key], another[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(another), where
        for i, (a, b) in enumerate(zip(one, another, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert one == another, where


@pytest.mark.parametrize("model_type", model_names())
@pytest.mark.parametrize(
    "length",
    [{"steps": 12}, {"steps": None, "epochs": 2, "epochs_decay": 2, "batch": 2, "workers": 1}],
    ids=["steps", "epochs-batch-2-worker"],
)
def test_a_training_resumed_after_every_step_equals_an_unbroken_one_bit_for_bit(settings, tmp_path, model_type, length):
    # 64 pixels: a U-Net of 32 has no dropout, and would not notice a random generator that is not restored.
    settings = replace(settings, size=(64, 64), **length)
    train(model_type, settings, tiny(model_type), resume=None)
    unbroken = load_checkpoint(tmp_path / "run" / "last.pt")

    broken_settings = replace(settings, out=str(tmp_path / "broken"), max_minutes=0.0)
    for session in range(12):
        torch.manual_seed(session)  # what other code did with the generator must not matter
        checkpoint = load_checkpoint(tmp_path / "broken" / "last.pt") if session else None
        train(model_type, broken_settings, tiny(model_type), resume=checkpoint)
    broken = load_checkpoint(tmp_path / "broken" / "last.pt")

    assert broken.training_state["step"] == 12
    assert_same(unbroken.networks, broken.networks)
    assert_same(
        {k: v for k, v in unbroken.training_state.items() if k != "best"},
        {k: v for k, v in broken.training_state.items() if k != "best"},
    )
    # The broken run was evaluated at each of its ends, so only the last evaluation is common.
    assert metrics(settings)[-1]["val_L1"] == metrics(broken_settings)[-1]["val_L1"]


def test_the_schedule_is_constant_then_falls_to_zero():
    factors = [lr_factor(step, 100, 50) for step in range(150)]

    assert factors[:100] == [1.0] * 100
    assert factors[100:] == pytest.approx([1 - n / 50 for n in range(50)])


def test_the_length_is_given_in_epochs_or_in_steps():
    assert schedule_steps(RunConfig(epochs=3, epochs_decay=2), epoch_steps=10) == (30, 20)
    assert schedule_steps(RunConfig(steps=7), epoch_steps=10) == (4, 3)


def test_a_run_leaves_checkpoints_metrics_samples_and_its_settings(settings, tmp_path):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    folder = tmp_path / "run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "best.pt", "best.pt.sha256", "config.toml", "last.pt", "last.pt.sha256", "metrics.jsonl", "samples",
    ]  # fmt: skip
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["step_0000006.png", "step_0000012.png"]
    assert cv2.imread(str(folder / "samples" / "step_0000012.png")).shape == (24 + 2 * 36, 3 * 36 - 4, 3)


def test_metrics_hold_every_loss_by_its_name_in_the_paper(settings):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    steps = [line for line in metrics(settings) if "G_L1" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert {"epoch", "lr", "D_fake", "D_real", "G_GAN", "G_L1", "images_per_s"} <= steps[0].keys()
    assert [line["step"] for line in metrics(settings) if "val_L1" in line] == [4, 8, 12]


def test_training_lowers_the_error_on_what_it_trains_on(settings):
    longer = replace(settings, steps=150, load_size=(32, 32), flip=False, lr=2e-3, eval_every=1000, log_every=10)

    train("pix2pix", longer, config_type("pix2pix")(ngf=8, ndf=4), resume=None)

    losses = [line["G_L1"] for line in metrics(longer) if "G_L1" in line]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_the_best_checkpoint_is_that_of_the_lowest_error(settings, tmp_path):
    train("pix2pix", replace(settings, eval_every=1), tiny("pix2pix"), resume=None)

    best = min((line for line in metrics(settings) if "val_L1" in line), key=lambda line: line["val_L1"])
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    assert checkpoint.card.training.steps == best["step"]
    assert checkpoint.training_state is None


def test_the_card_says_what_the_trainer_did(settings, tmp_path):
    train("pix2pix", replace(settings, direction="BtoA"), tiny("pix2pix"), resume=None)

    card = load_checkpoint(tmp_path / "run" / "last.pt").card
    assert (card.name, card.model_type, card.direction) == ("run", "pix2pix", "BtoA")
    assert (card.generator.name, card.generator.arguments["ngf"], card.size.multiple_of) == ("unet_32", 4, 32)
    assert asdict(card.training) == {
        "data": "data", "size": (32, 32), "batch": 1, "steps": 12, "epochs": 12 / 5, "seed": 0,
    }  # fmt: skip


def test_settings_left_in_the_run_repeat_it(settings, tmp_path):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    again = run("i2i-train", "pix2pix", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")

    assert again.returncode == 0, again.stderr
    first, second = (load_checkpoint(tmp_path / name / "last.pt") for name in ("run", "again"))
    assert_same(first.networks, second.networks)


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_checkpoint(settings, tmp_path):
    with pytest.raises(DivergedError, match=r"step \d+: (loss|weights).*lower --lr") as caught:
        train("pix2pix", replace(settings, lr=1e20, steps=100, save_every=100), tiny("pix2pix"), resume=None)

    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert caught.value.exit_code == 7
    assert all(w.isfinite().all() for w in checkpoint.networks["G"].values())


def test_weights_that_are_no_numbers_never_replace_the_checkpoint_before(settings, tmp_path, monkeypatch):
    real_log = Recorder.log
    training = Training("pix2pix", settings, tiny("pix2pix"))

    def ruin_at_step_7(self, step, values):
        real_log(self, step, values)
        if step == 7:
            next(iter(training._model.generators["G"].buffers())).fill_(torch.nan)

    monkeypatch.setattr(Recorder, "log", ruin_at_step_7)
    with pytest.raises(DivergedError, match="weights of network G are no longer finite"):
        training.fit(StopRequest())

    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 5


def test_a_picture_that_breaks_while_training_ends_it_and_keeps_what_was_learnt(settings, data, tmp_path, monkeypatch):
    real_log = Recorder.log

    def break_every_picture_at_step_3(self, step, values):
        real_log(self, step, values)
        if step == 3:
            for path in (data / "train").iterdir():
                path.write_bytes(b"gone")

    monkeypatch.setattr(Recorder, "log", break_every_picture_at_step_3)
    with pytest.raises(SourceError, match="not a picture"):
        train("pix2pix", settings, tiny("pix2pix"), resume=None)

    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 3


def failing_saves(monkeypatch, names_and_steps):
    """A disk that is full when these checkpoints are written."""
    real_save = loop.save_checkpoint

    def save(path, checkpoint):
        if (path.name, checkpoint.card.training.steps) in names_and_steps:
            raise SinkError(f"{path}: no space left")
        real_save(path, checkpoint)

    monkeypatch.setattr(loop, "save_checkpoint", save)


def test_a_checkpoint_that_fails_once_is_a_warning(settings, tmp_path, monkeypatch, capsys):
    failing_saves(monkeypatch, {("last.pt", 5)})

    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    assert "warning: " in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 12


@pytest.mark.parametrize("minutes", [None, 0.0])
def test_a_last_checkpoint_that_fails_is_an_error(settings, monkeypatch, minutes):
    failing_saves(monkeypatch, {("last.pt", 12), ("last.pt", 1)})

    with pytest.raises(SinkError, match="no space left"):
        train("pix2pix", replace(settings, max_minutes=minutes), tiny("pix2pix"), resume=None)


def test_what_an_earlier_training_left_is_not_overwritten_when_its_last_checkpoint_is_gone(settings, data, tmp_path):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)
    (tmp_path / "run" / "last.pt").unlink()

    again = run("i2i-train", "pix2pix", "--data", data, "--out", settings.out, "--resume")

    assert again.returncode == 2
    assert "holds best.pt of an earlier training" in the_error_line(again)


def test_a_run_is_never_overwritten(settings, data):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    again = run("i2i-train", "pix2pix", "--data", data, "--out", settings.out)

    assert again.returncode == 2
    assert "holds a training already; add --resume" in the_error_line(again)


def test_a_resumed_training_may_be_made_longer_but_not_another_one(settings, tmp_path):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    done = run("i2i-train", "pix2pix", "--out", settings.out, "--resume")
    longer = run("i2i-train", "pix2pix", "--out", settings.out, "--resume", "--steps", 14)
    other = run("i2i-train", "pix2pix", "--out", settings.out, "--resume", "--size", 64)

    assert (done.returncode, longer.returncode) == (0, 0), done.stderr + longer.stderr
    assert "step 12 of 12 is done already" in done.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 14
    assert other.returncode == 2
    assert "began with --size" in the_error_line(other)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_every_step_that_was_done(data, tmp_path, number, exit_code):
    process = start(
        "i2i-train", "pix2pix", "--data", data, "--out", tmp_path / "run", "--size", 32, "--ngf", 4, "--ndf", 4,
        "--steps", 100_000, "--log-every", 1,
    )  # fmt: skip
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)

    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == exit_code, stderr
    last_step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == last_step
    assert f"stopped at step {last_step}; go on with --resume" in stderr


def test_a_training_given_in_steps_may_go_on_in_epochs(settings, tmp_path):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    longer = run("i2i-train", "pix2pix", "--out", settings.out, "--resume", "--epochs", 3, "--epochs-decay", 0)

    assert longer.returncode == 0, longer.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 3 * 5


def test_a_device_that_is_not_there_is_an_error_and_never_another_device():
    with pytest.raises(DeviceError, match="--device cuda:7: not available here"):
        pick_device("cuda:7")
    with pytest.raises(UsageError, match="--device gpu: expected auto, cpu, cuda"):
        pick_device("gpu")
