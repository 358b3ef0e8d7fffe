"""The training loop: schedule, resume, what it leaves behind, how it stops."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import run, start, the_error_line
from drawings import write_labelled, write_pairs, write_unpaired
from untrained import save_untrained
from vgg_weights import torchvisions_vgg19

from i2i_runtime.command import StopRequest
from i2i_runtime.errors import DeviceError, DivergedError, ModelError, SinkError, SourceError, UsageError
from i2i_trainer import loop
from i2i_trainer.checkpoint import load_checkpoint
from i2i_trainer.config import RunConfig
from i2i_trainer.loop import Training, pick_device, train
from i2i_trainer.models import config_type, model_names
from i2i_trainer.record import Recorder
from i2i_trainer.trained import load_trained

HD = {"n_downsampling": 2, "n_blocks": 1, "n_local_blocks": 1, "num_D": 2, "n_layers": 2}
TINY = {
    "pix2pix": {"ngf": 4, "ndf": 4},
    # Two images of memory: after a few steps it is full, and the random half of the rule is at work.
    "cyclegan": {"ngf": 2, "ndf": 2, "generator": "resnet_1blocks", "pool_size": 2},
    # All three stages, labels, edges, a feature encoder and its styles.
    "pix2pixhd": {"ngf": 4, "ndf": 2, **HD, "n_enhancers": 1, "global_share": 0.4, "frozen_share": 0.3, "styles": 2},
    # The teacher lies in the folder in which `data_of` lets the test run.
    "distill": {"teacher": "teacher.pt", "student": "student_2blocks,width=8", "ndf": 4},
}


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


def tiny(model_type: str, **settings):
    return config_type(model_type)(**TINY[model_type] | settings)


@pytest.fixture
def data_of(tmp_path, data, monkeypatch):
    """Training data of the kind that a model type wants, and the settings that tell of it."""
    monkeypatch.chdir(tmp_path)
    save_untrained(tmp_path / "teacher.pt", "resnet_2blocks")
    unpaired = write_unpaired(tmp_path / "unpaired", "train", 3, 5)
    write_unpaired(unpaired, "test", 2, 2)
    labelled = write_labelled(tmp_path / "labelled", "train", 5, 70, 70)
    write_labelled(labelled, "val", 2, 70, 70, first_seed=100)
    return {
        "pix2pix": {"data": str(data)},
        "cyclegan": {"data": str(unpaired)},
        "pix2pixhd": {"data": str(labelled), "label_nc": 4},
        "distill": {"data": str(data)},
    }


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


def test_every_model_type_is_tested():
    assert TINY.keys() == set(model_names())


@pytest.mark.parametrize("model_type", TINY)
@pytest.mark.parametrize(
    "length",
    [{"steps": 10}, {"steps": None, "epochs": 1, "epochs_decay": 1, "batch": 2, "accumulate": 2, "workers": 1}],
    ids=["steps", "epochs-batch-2-accumulate-2-worker"],
)
def test_a_training_resumed_after_every_step_equals_an_unbroken_one_bit_for_bit(
    settings, data_of, tmp_path, model_type, length
):
    # 64 pixels: a U-Net of 32 has no dropout, and would not notice a random generator that is not restored.
    settings = replace(settings, size=(64, 64), eval_every=100, sample_every=100, **data_of[model_type], **length)
    train(model_type, settings, tiny(model_type), resume=None)
    unbroken = load_checkpoint(tmp_path / "run" / "last.pt")

    broken_settings = replace(settings, out=str(tmp_path / "broken"), max_minutes=0.0)
    steps = unbroken.training_state["step"]
    for session in range(steps):
        torch.manual_seed(session)  # what other code did with the generator must not matter
        checkpoint = load_checkpoint(tmp_path / "broken" / "last.pt") if session else None
        train(model_type, broken_settings, tiny(model_type), resume=checkpoint)
    broken = load_checkpoint(tmp_path / "broken" / "last.pt")

    assert broken.training_state["step"] == steps
    assert_same(unbroken.networks, broken.networks)
    # The broken run was evaluated at each of its ends, so its best figure may be an earlier one.
    assert_same(unbroken.training_state | {"best": None}, broken.training_state | {"best": None})
    # The last evaluation is common to both.
    assert metrics(settings)[-1] == metrics(broken_settings)[-1]


def test_the_state_that_is_resumed_holds_pools_averages_and_the_stage(settings, data_of, tmp_path):
    for model_type in ("cyclegan", "pix2pixhd"):
        its = replace(settings, size=(64, 64), out=str(tmp_path / model_type), steps=10, **data_of[model_type])
        train(model_type, its, tiny(model_type), resume=None)

    cyclegan, hd = (load_checkpoint(tmp_path / name / "last.pt") for name in ("cyclegan", "pix2pixhd"))

    assert cyclegan.training_state["ranks"][0]["pools"]["D_A"]["images"].shape == (2, 3, 64, 64)
    raw, averaged = cyclegan.training_state["generators"]["G_A"], cyclegan.networks["G_A"]
    assert not torch.equal(raw["model.1.weight"], averaged["model.1.weight"])
    assert hd.training_state["stage"] == 2
    assert hd.networks["styles"]["codes"].shape == (2, 4, 3)


def test_the_curriculum_trains_small_then_the_enhancer_alone_then_both(settings, data_of, tmp_path):
    its = replace(settings, size=(64, 64), steps=10, eval_every=100, save_every=1, ema=0.0, **data_of["pix2pixhd"])
    kept: dict[int, dict] = {}
    real_save = loop.save_checkpoint

    def keep(path, checkpoint):
        real_save(path, checkpoint)
        kept[checkpoint.cards["G"].training.steps] = load_checkpoint(path)

    loop.save_checkpoint = keep
    try:
        train("pix2pixhd", its, tiny("pix2pixhd"), resume=None)
    finally:
        loop.save_checkpoint = real_save

    cards = {step: checkpoint.cards["G"] for step, checkpoint in kept.items()}
    assert [cards[step].generator.name for step in (4, 5, 8)] == ["global", "local", "local"]
    assert [cards[step].training.size for step in (4, 5)] == [(32, 32), (64, 64)]
    stages = [line["stage"] for line in metrics(its) if "stage" in line and "G_GAN" in line]
    assert stages == ["global"] * 4 + ["frozen"] * 3 + ["joint"] * 3
    trunk = "model.1.weight"
    weights = {step: kept[step].networks["G"] for step in kept}
    assert torch.equal(weights[4][trunk], weights[7][trunk]), "the trunk rests while the enhancer learns"
    assert not torch.equal(weights[5]["model1_1.1.weight"], weights[7]["model1_1.1.weight"])
    assert not torch.equal(weights[7][trunk], weights[10][trunk]), "then both learn"


def test_a_global_generator_of_an_earlier_run_begins_the_enhancers_training(settings, data_of, tmp_path):
    its = replace(settings, size=(32, 32), steps=3, **data_of["pix2pixhd"])
    train("pix2pixhd", its, tiny("pix2pixhd", n_enhancers=0, styles=0), resume=None)
    first = load_checkpoint(tmp_path / "run" / "last.pt")
    enhancer = tiny("pix2pixhd", styles=0, frozen_share=0.9, global_weights=str(tmp_path / "run" / "last.pt"))

    its = replace(its, size=(64, 64), out=str(tmp_path / "second"), ema=0.0)
    train("pix2pixhd", its, enhancer, resume=None)

    second = load_checkpoint(tmp_path / "second" / "last.pt")
    assert second.cards["G"].generator.name == "local"
    assert torch.equal(first.networks["G"]["model.4.weight"], second.networks["G"]["model.4.weight"])


def test_global_weights_of_another_width_are_refused(settings, data_of, tmp_path):
    its = replace(settings, size=(32, 32), steps=1, **data_of["pix2pixhd"])
    train("pix2pixhd", its, tiny("pix2pixhd", n_enhancers=0, styles=0, ngf=2), resume=None)
    enhancer = tiny("pix2pixhd", styles=0, global_weights=str(tmp_path / "run" / "last.pt"))

    with pytest.raises(ModelError, match=r"--global-weights .*last\.pt: expected a generator global .*found global"):
        train("pix2pixhd", replace(its, size=(64, 64), out=str(tmp_path / "second")), enhancer, resume=None)


@pytest.mark.parametrize("model_type", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (2, 4)])
def test_pictures_of_other_channels_train_and_make_sample_grids(settings, tmp_path, model_type, channels):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for domain, count in zip("AB", channels, strict=True):
            folder = tmp_path / "many" / f"{split}{domain}"
            folder.mkdir(parents=True)
            for number in range(2):
                np.save(folder / f"{number}.npy", rng.integers(0, 65536, (40, 40, count), np.uint16))
    its = replace(
        settings, data=str(tmp_path / "many"), steps=2, input_channels=channels[0], output_channels=channels[1]
    )

    train(
        model_type, its, tiny(model_type, **({"lambda_identity": 0.0} if model_type == "cyclegan" else {})), resume=None
    )

    card = next(iter(load_checkpoint(tmp_path / "run" / "last.pt").cards.values()))
    assert (card.input.channels, card.output.channels) == channels
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model_type", TINY)
def test_reduced_precision_trains_with_weights_in_single(settings, data_of, tmp_path, model_type, precision):
    its = replace(settings, size=(64, 64), steps=3, precision=precision, channels_last=True, **data_of[model_type])

    train(model_type, its, tiny(model_type), resume=None)

    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert {w.dtype for w in next(iter(checkpoint.networks.values())).values()} <= {torch.float32, torch.int64}
    assert len(metrics(its)) > 2
    if precision == "fp16":
        assert checkpoint.training_state["scalers"]["generator"]["scale"] > 1


def weights_after(settings, model_type, config, steps, **changes):
    its = replace(settings, steps=steps, eval_every=100, sample_every=100, ema=0.0, **changes)
    train(model_type, its, config, resume=None)
    return load_checkpoint(Path(its.out) / "last.pt").networks


@pytest.fixture
def in_double():
    """Adam divides a gradient by its size: in single precision a gradient that is rounding noise moves a weight too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("model_type", TINY)
def test_two_batches_added_up_do_what_one_of_twice_the_size_does(settings, data_of, tmp_path, model_type, in_double):
    its = replace(settings, size=(64, 64), flip=False, **data_of[model_type])
    plain = {"pix2pix": {"norm": "instance", "dropout": 0.0}, "cyclegan": {"pool_size": 50}}
    config = tiny(model_type, **plain.get(model_type, {}))

    whole = weights_after(its, model_type, config, 4, batch=2, out=str(tmp_path / "whole"))
    added = weights_after(its, model_type, config, 4, accumulate=2, out=str(tmp_path / "added"))

    for name in whole.keys() - {"styles"}:
        for key, weight in whole[name].items():
            torch.testing.assert_close(added[name][key], weight, rtol=0, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_gradients_are_cut_to_the_largest_norm(settings, tmp_path):
    free = weights_after(settings, "pix2pix", tiny("pix2pix"), 1, out=str(tmp_path / "free"))
    # Adam's first step does not depend on the size of a gradient, unless eps outweighs it.
    cut = weights_after(settings, "pix2pix", tiny("pix2pix"), 1, clip_grad=1e-12, out=str(tmp_path / "cut"))
    begun = weights_after(settings, "pix2pix", tiny("pix2pix"), 1, lr=0.0, out=str(tmp_path / "begun"))

    def moved(networks):
        return max((networks["G"][k] - begun["G"][k]).abs().max().item() for k in begun["G"] if k.endswith("weight"))

    assert moved(free) > 1e-4
    assert moved(cut) < 1e-5


def test_the_best_checkpoint_is_picked_by_the_metric_that_was_chosen(settings, tmp_path):
    train("pix2pix", replace(settings, eval_every=1, best_by="PSNR"), tiny("pix2pix"), resume=None)

    best = max((line for line in metrics(settings) if "val_PSNR" in line), key=lambda line: line["val_PSNR"])
    assert load_checkpoint(tmp_path / "run" / "best.pt").cards["G"].training.steps == best["step"]


def test_a_metric_that_the_data_does_not_have_is_refused_with_those_it_has(settings, data_of):
    its = replace(settings, best_by="SSIM", **data_of["cyclegan"])

    with pytest.raises(UsageError, match="--best-by SSIM: cyclegan has cycle_L1 here"):
        train("cyclegan", its, tiny("cyclegan"), resume=None)


def test_a_cyclegan_checkpoint_holds_both_directions(settings, data_of, tmp_path):
    train("cyclegan", replace(settings, **data_of["cyclegan"]), tiny("cyclegan"), resume=None)

    path = tmp_path / "run" / "last.pt"
    cards = load_checkpoint(path).cards
    assert {name: card.direction for name, card in cards.items()} == {"G_A": "AtoB", "G_B": "BtoA"}
    there, back = (load_trained(path, direction=direction).generator for direction in ("AtoB", "BtoA"))
    assert not torch.equal(there.state_dict()["model.1.weight"], back.state_dict()["model.1.weight"])
    assert cv2.imread(str(tmp_path / "run" / "samples" / "step_0000012.png")).shape[1] == 6 * 36 - 4


def test_a_run_leaves_checkpoints_metrics_samples_and_its_settings(settings, tmp_path):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    folder = tmp_path / "run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "best.pt", "best.pt.sha256", "config.toml", "index.html", "last.pt", "last.pt.sha256", "metrics.jsonl",
        "samples",
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

    train("pix2pix", longer, tiny("pix2pix", ngf=8), resume=None)

    losses = [line["G_L1"] for line in metrics(longer) if "G_L1" in line]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_the_best_checkpoint_is_that_of_the_lowest_error(settings, tmp_path):
    train("pix2pix", replace(settings, eval_every=1), tiny("pix2pix"), resume=None)

    best = min((line for line in metrics(settings) if "val_L1" in line), key=lambda line: line["val_L1"])
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    assert checkpoint.cards["G"].training.steps == best["step"]
    assert checkpoint.training_state is None


def test_the_card_says_what_the_trainer_did(settings, tmp_path):
    train("pix2pix", replace(settings, direction="BtoA"), tiny("pix2pix"), resume=None)

    card = load_checkpoint(tmp_path / "run" / "last.pt").cards["G"]
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


@pytest.mark.fault(38)
def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_checkpoint(settings, tmp_path):
    with pytest.raises(DivergedError, match=r"step \d+: (loss|weights).*lower --lr") as caught:
        train("pix2pix", replace(settings, lr=1e20, steps=100, save_every=100), tiny("pix2pix"), resume=None)

    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert caught.value.exit_code == 7
    assert all(w.isfinite().all() for w in checkpoint.networks["G"].values())


@pytest.mark.fault(38)
def test_weights_that_are_no_numbers_never_replace_the_checkpoint_before(settings, tmp_path, monkeypatch):
    real_log = Recorder.log
    training = Training("pix2pix", settings, tiny("pix2pix"))
    training.start()

    def ruin_at_step_7(self, step, values):
        real_log(self, step, values)
        if step == 7:
            # Not the weights: a NaN in them would be in the losses first.
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
        if (path.name, checkpoint.cards["G"].training.steps) in names_and_steps:
            raise SinkError(f"{path}: no space left")
        real_save(path, checkpoint)

    monkeypatch.setattr(loop, "save_checkpoint", save)


@pytest.mark.fault(37)
def test_a_checkpoint_that_fails_once_is_a_warning(settings, tmp_path, monkeypatch, capsys):
    failing_saves(monkeypatch, {("last.pt", 5)})

    train("pix2pix", settings, tiny("pix2pix"), resume=None)

    assert "warning: " in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 12


@pytest.mark.parametrize("minutes", [None, 0.0])
@pytest.mark.fault(37)
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


@pytest.mark.fault(39)
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


def test_a_changed_number_of_pictures_is_said_when_a_training_goes_on(settings, data, tmp_path):
    train("pix2pix", settings, tiny("pix2pix"), resume=None)
    write_pairs(data / "train", 6, 70, 70)

    again = run("i2i-train", "pix2pix", "--out", settings.out, "--resume", "--steps", 13)

    assert again.returncode == 0, again.stderr
    assert "note: 5 training pictures before, 6 now" in again.stderr


def test_label_maps_train_a_pix2pix_too(settings, data_of, tmp_path):
    train("pix2pix", replace(settings, steps=2, **data_of["pix2pixhd"]), tiny("pix2pix"), resume=None)

    card = load_checkpoint(tmp_path / "run" / "last.pt").cards["G"]
    assert card.generator.arguments["input_channels"] == 4 + 1
    assert card.labels.instance_edges


@pytest.mark.parametrize(("model_type", "network"), [("pix2pix", "G"), ("cyclegan", "G_A")])
def test_a_generator_may_be_named_with_its_arguments_and_be_a_student(settings, data_of, tmp_path, model_type, network):
    config = tiny(model_type, generator="student_2blocks,width=8,norm=none")

    train(model_type, replace(settings, steps=2, **data_of[model_type]), config, resume=None)

    architecture = load_checkpoint(tmp_path / "run" / "last.pt").cards[network].generator
    assert architecture.name == "student_2blocks"
    assert architecture.arguments == {"input_channels": 3, "output_channels": 3, "width": 8, "norm": "none"}


@pytest.mark.parametrize("model_type", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize(
    ("words", "message"),
    [("vgg", "generator 'vgg': expected unet_N"), ("resnet_1blocks,width=8", "width: expected one of ngf")],
)
def test_a_generator_that_is_not_named_well_is_refused(settings, data_of, model_type, words, message):
    with pytest.raises(UsageError, match=f"^--generator {words}: {message}"):
        train(model_type, replace(settings, **data_of[model_type]), tiny(model_type, generator=words), resume=None)


def test_cyclegan_refuses_label_maps(settings, data_of):
    with pytest.raises(UsageError, match="--label-nc: cyclegan translates pictures"):
        train("cyclegan", replace(settings, **data_of["pix2pixhd"]), tiny("cyclegan"), resume=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of what it does itself
@pytest.mark.parametrize("model_type", TINY)
def test_compiled_networks_learn_what_plain_ones_do(settings, data_of, tmp_path, model_type):
    its = replace(settings, size=(64, 64), flip=False, **data_of[model_type])
    config = tiny(model_type, **({"dropout": 0.0} if model_type == "pix2pix" else {}))

    plain = weights_after(its, model_type, config, 1, out=str(tmp_path / "plain"))
    compiled = weights_after(its, model_type, config, 1, compile=True, out=str(tmp_path / "compiled"))

    first = next(iter(plain))
    for key, weight in plain[first].items():
        # One step of Adam moves a weight by the learning rate, whatever the rounding of its gradient.
        torch.testing.assert_close(compiled[first][key], weight, rtol=0, atol=2.1 * its.lr)


def test_a_longer_training_stays_in_the_stage_it_has_reached(settings, data_of, tmp_path):
    its = replace(settings, size=(64, 64), steps=10, eval_every=100, **data_of["pix2pixhd"])
    train("pix2pixhd", its, tiny("pix2pixhd"), resume=None)

    longer = replace(its, steps=40)
    train("pix2pixhd", longer, tiny("pix2pixhd"), resume=load_checkpoint(tmp_path / "run" / "last.pt"))

    assert [line["stage"] for line in metrics(its) if "stage" in line][10:] == ["joint"] * 30


def test_a_training_may_go_on_in_another_precision(settings, tmp_path):
    train("pix2pix", replace(settings, steps=2), tiny("pix2pix"), resume=None)

    for steps, precision in ((4, "fp16"), (6, "fp32")):
        last = load_checkpoint(tmp_path / "run" / "last.pt")
        train("pix2pix", replace(settings, steps=steps, precision=precision), tiny("pix2pix"), resume=last)

    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 6


def test_styles_that_cannot_be_learnt_any_more_cost_no_steps(settings, data_of, tmp_path, monkeypatch):
    its = replace(settings, size=(64, 64), save_every=100, cache_mb=0, steps=100, **data_of["pix2pixhd"])
    real_log = Recorder.log

    def break_a_picture_at_step_7(self, step, values):
        real_log(self, step, values)
        if step == 7:
            (tmp_path / "labelled" / "train_img" / "town_000000_leftImg8bit.png").write_bytes(b"gone")

    monkeypatch.setattr(Recorder, "log", break_a_picture_at_step_7)
    with pytest.raises(SourceError):
        train("pix2pixhd", its, tiny("pix2pixhd"), resume=None)

    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] >= 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_reaches_the_workers_too_and_loses_no_step(data, tmp_path, number):
    process = start(
        "i2i-train", "pix2pix", "--data", data, "--out", tmp_path / "run", "--size", 32, "--ngf", 4, "--ndf", 4,
        "--steps", 100_000, "--log-every", 1, "--workers", 1, start_new_session=True,
    )  # fmt: skip
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)

    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 128 + number, stderr
    last_step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == last_step


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ngf": 3}, "--ngf 3: expected a multiple of 2 for 1 enhancers"),
        ({"num_D": 6}, "--num-d 6: the last discriminator would see"),
        ({"global_share": 0.9, "frozen_share": 0.2}, "expected less than 1 together, found 1.1"),
        ({"n_enhancers": 0, "global_weights": "x.pt"}, "--global-weights: expected --n-enhancers 1 or more"),
        ({"vgg": "missing.pth"}, "--vgg missing.pth: no such file"),
    ],
)
def test_settings_that_would_fail_after_hours_are_refused_before_the_first_step(settings, data_of, wrong, message):
    its = replace(settings, size=(64, 64), **data_of["pix2pixhd"])

    with pytest.raises((UsageError, ModelError), match=message):
        train("pix2pixhd", its, tiny("pix2pixhd", **wrong), resume=None)


def test_two_enhancers_begin_at_a_quarter_of_the_size(settings, data_of, tmp_path):
    its = replace(settings, size=(64, 64), steps=4, eval_every=100, save_every=1, **data_of["pix2pixhd"])
    config = tiny("pix2pixhd", n_enhancers=2, n_downsampling=1, num_D=1, styles=0, global_share=0.5, frozen_share=0.0)

    train("pix2pixhd", replace(its, max_minutes=0.0), config, resume=None)
    begun = load_checkpoint(tmp_path / "run" / "last.pt")
    train("pix2pixhd", its, config, resume=begun)
    ended = load_checkpoint(tmp_path / "run" / "last.pt")

    assert begun.cards["G"].training.size == (16, 16)
    assert ended.cards["G"].training.size == (64, 64)
    assert "model2_2.5.weight" in ended.networks["G"]


def test_pix2pixhd_learns_from_pairs_of_pictures_too_with_a_perceptual_loss(settings, tmp_path):
    torch.save(torchvisions_vgg19(), tmp_path / "vgg19.pth")
    config = tiny("pix2pixhd", n_enhancers=0, styles=0, vgg=str(tmp_path / "vgg19.pth"))

    train("pix2pixhd", replace(settings, steps=2), config, resume=None)

    assert metrics(settings)[0].keys() >= {"G_GAN", "G_GAN_Feat", "G_VGG", "D_fake", "D_real"}
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert checkpoint.cards["G"].labels is None
    assert checkpoint.networks.keys() == {"G", "D"}, "the VGG network is the user's file, and no part of a checkpoint"
