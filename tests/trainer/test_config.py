"""Settings: one dataclass field is a flag, a TOML key and its help."""

from __future__ import annotations

import dataclasses
import importlib
import typing

import pytest
from commands import run, the_error_line

from i2i_runtime.errors import UsageError
from i2i_trainer.config import RunConfig, options_of, read_toml, resumed, to_toml
from i2i_trainer.models import config_type, model_names

HINTS = typing.get_type_hints(RunConfig)


def toml(tmp_path, text: str):
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_papers():
    run_config, pix2pix = RunConfig(), config_type("pix2pix")()

    assert (run_config.lr, run_config.beta1, run_config.beta2) == (2e-4, 0.5, 0.999)
    assert (run_config.batch, run_config.epochs, run_config.epochs_decay) == (1, 100, 100)
    assert (pix2pix.lambda_l1, pix2pix.ngf, pix2pix.gan, pix2pix.dropout) == (100.0, 64, "vanilla", 0.5)


@pytest.mark.parametrize("name", model_names())
def test_settings_read_without_torch_are_those_of_the_model_type(name):
    without_torch = config_type(name)
    imported = importlib.import_module(f"i2i_trainer.models.{name}").Config

    assert [(f.name, f.default, f.metadata) for f in dataclasses.fields(without_torch)] == [
        (f.name, f.default, f.metadata) for f in dataclasses.fields(imported)
    ]


@pytest.mark.parametrize("config", [RunConfig, *map(config_type, model_names())])
def test_every_setting_is_a_flag_with_a_help(config):
    options = {option.name: option for option in options_of(config)}

    assert options.keys() == {f.name for f in dataclasses.fields(config)}
    assert all(option.help for option in options.values())


def test_settings_come_from_a_toml_file(tmp_path):
    path = toml(tmp_path, 'data = "x"\nsize = "64x128"\nload-size = 200\nflip = false\nlr = 1\n')

    assert read_toml(path, HINTS) == {
        "data": "x", "size": (64, 128), "load_size": (200, 200), "flip": False, "lr": 1.0,
    }  # fmt: skip


def test_settings_written_as_toml_are_read_back(tmp_path):
    config = RunConfig(data='a "quoted" \\ folder', out="ü😀", size=(64, 128), steps=7, flip=False, lr=1e-5)

    values = read_toml(toml(tmp_path, to_toml(config)), HINTS)

    assert RunConfig(**values) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nepohcs = 3", r"settings\.toml:2: epohcs: unknown setting; did you mean epochs\?"),
        ('data = "x"\nbatch = "two"', r"settings\.toml:2: batch: expected int, found 'two'"),
        ("batch = 1.5", r"settings\.toml:1: batch: expected int, found 1\.5"),
        ("batch = true", r"settings\.toml:1: batch: expected int, found True"),
        ('size = "big"', r"settings\.toml:1: size: expected N or HEIGHTxWIDTH"),
        ('direction = "left"', r"settings\.toml:1: direction: expected one of AtoB, BtoA, found 'left'"),
        ("[data]\nx = 1", r"settings\.toml:1: data: expected str"),
        ("= 3", r"settings\.toml: not TOML"),
    ],
)
@pytest.mark.fault(45)
def test_a_mistake_in_a_toml_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_toml(toml(tmp_path, text), HINTS)


def test_a_resumed_training_keeps_its_settings_but_for_what_may_change():
    before = RunConfig(data="old", size=(64, 64), steps=100, seed=3)
    wanted = RunConfig(data="new", steps=200)

    after = resumed(before, wanted, changed={"data", "steps"})

    assert after == dataclasses.replace(before, data="new", steps=200)


@pytest.mark.fault(39)
def test_a_resumed_training_refuses_to_become_another_one():
    with pytest.raises(UsageError, match=r"began with --size 64x64, found 128x128"):
        resumed(RunConfig(size=(64, 64)), RunConfig(size=(128, 128)), changed={"size"})


@pytest.mark.parametrize(
    "values",
    [
        {"batch": 0},
        {"steps": 0},
        {"epochs": -1},
        {"workers": -1},
        {"lr": float("inf")},
        {"beta1": float("nan")},
        {"seed": 2**40},
        {"epochs": 0, "epochs_decay": 0},
    ],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(UsageError, match="expected"):
        RunConfig(**values)


@pytest.mark.parametrize(
    "values", [{"ngf": 0}, {"n_layers": 0}, {"lambda_l1": -1.0}, {"lambda_l1": float("nan")}, {"dropout": 2.0}]
)
def test_values_of_a_model_type_out_of_range_are_refused(values):
    with pytest.raises(UsageError, match="expected"):
        config_type("pix2pix")(**values)


def test_a_flag_wins_over_the_file(tmp_path):
    path = toml(tmp_path, 'data = "from-the-file"\nout = "run"\n')

    finished = run("i2i-train", "pix2pix", "--config", path, "--data", tmp_path / "from-the-flag")

    assert "from-the-flag: no such data folder" in the_error_line(finished)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pix2pix"], "--out: expected a folder"),
        (["pix2pix", "--out", "x"], "--data: expected a folder"),
        (["pix2pix", "--size", "big"], "expected N or HEIGHTxWIDTH"),
        (["pix2pix", "--sizes", "3"], "--sizes"),
        (["pix3pix"], "pix3pix"),
        (["pix2pix", "--out", "x", "--data", "y", "--steps", "3", "--epochs", "2"], "--steps and --epochs"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    finished = run("i2i-train", *arguments, cwd=tmp_path)

    assert finished.returncode == 2
    assert message in the_error_line(finished)
