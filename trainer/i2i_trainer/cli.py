"""`i2i-train`: train an image-to-image generator."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from i2i_runtime import __version__, command
from i2i_runtime.card import decode
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.config import (
    ModelConfig,
    RunConfig,
    config_file_option,
    options_of,
    resumed,
    stated,
    without,
)
from i2i_trainer.models import config_type, model_names, summary

if TYPE_CHECKING:
    from i2i_trainer.checkpoint import Checkpoint


_PICTURES = """\b
Pictures: DIR/train with A|B side by side, or DIR/trainA and DIR/trainB;
label maps: DIR/train_label, DIR/train_img and DIR/train_inst."""


class _Commands(click.Group):
    """One subcommand for each file in `models/`, made from its settings, and what is stated below."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*model_names(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in model_names():
            return super().get_command(ctx, name)
        model_config = config_type(name)

        @click.pass_context
        def start(ctx: click.Context, /, **values: Any) -> None:
            _train(ctx, name, model_config, values)

        return click.Command(
            name,
            callback=start,
            help=f"{summary(name)}\n\n{_PICTURES}",
            short_help=summary(name),
            params=[
                *options_of(RunConfig),
                *options_of(model_config),
                config_file_option(lambda: RunConfig, lambda: model_config),
                click.Option(["--resume"], is_flag=True, help="Go on from the last checkpoint in --out."),
                click.Option(["--debug"], is_flag=True, help="Show the full traceback of an error."),
            ],
        )


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="i2i-train")
def i2i_train() -> None:
    """Train an image-to-image generator; `i2i-train MODEL --help` lists its settings."""


@i2i_train.command("check-data", short_help="Look for what is wrong with a folder of training pictures.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--label-nc", type=click.IntRange(min=0), default=0, help="Classes of the label maps: checks their ids.")
@click.option("--channels", type=(int, int), default=(3, 3), show_default=True, help="Of the pictures of A and of B.")
@click.option("--unpaired", is_flag=True, help="A and B are two sets without pairs (CycleGAN).")
@command.debug_option
def check_data(folder: Path, label_nc: int, channels: tuple[int, int], unpaired: bool, debug: bool) -> None:
    """Read every picture of DIR: counts, sizes, broken files, missing partners, labels, copies in train and test.

    Ends with 0 if nothing is wrong, and with 3 if something is.
    """
    _require_torch()
    from i2i_trainer.data_report import show_data

    show_data(folder, label_nc=label_nc, channels=channels, unpaired=unpaired)


def _train(ctx: click.Context, name: str, model_config: type[ModelConfig], values: dict[str, Any]) -> None:
    def settings(config: type[Any]) -> Any:
        return config(**{f.name: values[f.name] for f in dataclasses.fields(config)})

    run, config = settings(RunConfig), settings(model_config)
    if not run.out:
        raise UsageError("--out: expected a folder for this run, found nothing; for example --out runs/facades")
    last = Path(run.out) / "last.pt"
    resume = values["resume"] and last.exists()
    if last.exists() and not resume:
        raise UsageError(f"--out {run.out}: holds a training already; add --resume, or choose another folder")
    left = [name for name in ("best.pt", "metrics.jsonl") if (last.parent / name).exists()]
    if left and not last.exists():
        raise UsageError(f"--out {run.out}: holds {left[0]} of an earlier training; choose another folder")
    if values["resume"] and not resume:
        _say(f"{last}: nothing to resume yet, starting at step 0")
    flags = stated(ctx, ParameterSource.COMMANDLINE)
    in_epochs = bool(flags & {"epochs", "epochs_decay"})
    if in_epochs and "steps" in flags:
        raise UsageError("--steps and --epochs: expected one of them, found both")
    checkpoint = _load(last) if resume else None
    if checkpoint is not None:
        before_run, before_config = _settings_of(checkpoint, last, name, model_config)
        changed = (flags | stated(ctx, ParameterSource.DEFAULT_MAP)) - config.unstated(flags)
        run, config = resumed(before_run, run, changed), resumed(before_config, config, changed)
    if in_epochs:
        # Steps that a file or the resumed training states must not win over these flags.
        run = dataclasses.replace(run, steps=None)
    if not run.data:
        raise UsageError("--data: expected a folder of training pictures, found nothing")
    if checkpoint is None:
        run, config = _settled(ctx, name, run, without(config, config.unstated(flags)))
    _require_torch()
    from i2i_trainer.loop import train

    train(name, run, config, resume=checkpoint)


def _settled(ctx: click.Context, name: str, run: RunConfig, config: Any) -> tuple[RunConfig, Any]:
    """The settings of a new training with all that follows from other files filled in."""
    _require_torch()
    from i2i_trainer.models import model_type

    return model_type(name).settle(
        run,
        config,
        flags=stated(ctx, ParameterSource.COMMANDLINE),
        in_file=stated(ctx, ParameterSource.DEFAULT_MAP),
        say=_say,
    )


def _say(line: str) -> None:
    """Show a line once: torchrun starts this process many times."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(line, err=True)


def _load(path: Path) -> Checkpoint:
    _require_torch()
    from i2i_trainer.checkpoint import load_checkpoint

    return load_checkpoint(path)


def _settings_of(
    checkpoint: Checkpoint, path: Path, name: str, model_config: type[ModelConfig]
) -> tuple[RunConfig, Any]:
    """The settings that the training in a checkpoint began with."""
    where = f"{path}: settings"
    try:
        saved = json.loads(checkpoint.config)
        its_type, its_run, its_model = saved["model_type"], saved["run"], saved["model"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{where}: expected those of a training, found something else ({error!r})") from error
    if its_type != name:
        raise UsageError(f"{path}: expected a {name} training, found {its_type}")
    return decode(RunConfig, its_run, where), decode(model_config, its_model, where)


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise ModelError(f"training needs {error.name}; pip install 'i2i[train]'") from error


def main() -> None:
    """Entry point of the `i2i-train` command."""
    command.run(i2i_train)
