"""Settings of a training: typed dataclasses whose fields are flags, TOML keys and their help at once.

Nothing here imports torch, so that every `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from i2i_runtime.card import decode
from i2i_runtime.errors import ModelError, UsageError

Size = tuple[int, int]
"""(height, width) in pixels."""


def option(
    default: Any, help: str, *, minimum: float = -math.inf, maximum: float = math.inf, may_change: bool = False
) -> Any:
    """A dataclass field that is a setting.

    Args:
        default: its value where nobody sets it.
        help: one sentence for `--help`.
        minimum: the least value of a number.
        maximum: the largest.
        may_change: whether a resumed training may have another value than the one it began with.
    """
    return field(default=default, metadata={"help": help, "range": (minimum, maximum), "may_change": may_change})


class Settings:
    """Base of the dataclasses whose fields are made by `option`."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: a value out of its range, infinite, or no number.
        """
        for its_field in dataclasses.fields(self):  # type: ignore[arg-type]  # its children are dataclasses
            value, (least, most) = getattr(self, its_field.name), its_field.metadata["range"]
            if isinstance(value, int | float) and not (math.isfinite(value) and least <= value <= most):
                expected = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
                raise UsageError(f"{flag(its_field.name)}: expected {expected}, found {value:g}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Settings that every model type has."""

    data: str = option("", "Folder of training pictures.", may_change=True)
    out: str = option("", "Folder of this run: checkpoints, metrics, sample pictures.", may_change=True)
    direction: Literal["AtoB", "BtoA"] = option("AtoB", "AtoB: A (or the left half) is the input; BtoA: B is.")
    size: Size = option((256, 256), "Size of the training images, N or HEIGHTxWIDTH.")
    load_size: Size | None = option(
        None, "Size before the random crop; by default 286/256 of --size, for pix2pixhd --size."
    )
    flip: bool = option(True, "Mirror half of the training images.")
    input_channels: int = option(
        3, "Channels of the input pictures: 1 grey, 3 colour, or as the files hold.", minimum=1
    )
    output_channels: int = option(3, "Channels of the output pictures.", minimum=1)
    label_nc: int = option(0, "Classes of the label maps that are the input; 0: the input is pictures.", minimum=0)
    instances: bool = option(True, "Beside label maps use instance maps, as an edge channel.")
    batch: int = option(1, "Images in a step (of each process).", minimum=1)
    accumulate: int = option(1, "Batches whose gradients are added up for one step.", minimum=1)
    epochs: int = option(100, "Epochs at the full learning rate.", minimum=0, may_change=True)
    epochs_decay: int = option(100, "Epochs over which it falls to zero.", minimum=0, may_change=True)
    steps: int | None = option(
        None, "Steps in all, instead of epochs: half at the full rate.", minimum=1, may_change=True
    )
    max_minutes: float | None = option(None, "End after this time all the same.", minimum=0, may_change=True)
    lr: float = option(2e-4, "Learning rate of Adam.", minimum=0, may_change=True)
    lr_policy: Literal["linear", "cosine", "constant"] = option(
        "linear", "How the rate falls in the second part.", may_change=True
    )
    beta1: float = option(0.5, "Adam's decay of the gradient's mean.", minimum=0, maximum=0.9999)
    beta2: float = option(0.999, "Adam's decay of the gradient's square.", minimum=0, maximum=0.999999)
    clip_grad: float = option(0.0, "Largest norm of the gradients of a part; 0: no limit.", minimum=0, may_change=True)
    ema: float = option(
        0.999,
        "Use a moving average of the generators' weights; 0: the last weights, as in the papers.",
        minimum=0,
        maximum=0.999999,
    )
    seed: int = option(0, "Seed of weights, order, crops and dropout.", minimum=0, maximum=2**32 - 1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.", may_change=True)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Arithmetic of the networks; auto: bf16 on a GPU that has it, else fp32.", may_change=True
    )
    channels_last: bool | None = option(None, "Memory format NHWC; by default on a CUDA GPU only.", may_change=True)
    compile: bool = option(False, "Compile the networks with torch.compile.", may_change=True)
    workers: int | None = option(
        None, "Processes that load pictures; by default none on a CPU, 4 on a GPU.", minimum=0, may_change=True
    )
    cache_mb: int = option(2048, "Memory of a machine for decoded pictures, in MiB.", minimum=0, may_change=True)
    skip_unreadable: bool = option(False, "Leave broken pictures out instead of ending.", may_change=True)
    log_every: int = option(50, "Steps between two lines of metrics.", minimum=1, may_change=True)
    sample_every: int = option(500, "Steps between two sample pictures.", minimum=1, may_change=True)
    eval_every: int = option(1000, "Steps between two evaluations on val/ or test/.", minimum=1, may_change=True)
    eval_pictures: int = option(64, "Pictures of an evaluation, evenly spaced.", minimum=1, may_change=True)
    save_every: int = option(1000, "Steps between two checkpoints.", minimum=1, may_change=True)
    best_by: Literal[
        "auto", "L1", "PSNR", "SSIM", "FID", "KID", "cycle_L1", "L1_to_teacher", "PSNR_to_teacher", "SSIM_to_teacher"
    ] = option(
        "auto",
        "Metric that picks best.pt; auto: L1_to_teacher of students (L1 with --recon target), L1 of pairs, else FID "
        "with --features, else cycle_L1.",
        may_change=True,
    )
    features: str = option("", "TorchScript feature network, for FID and KID.", may_change=True)
    tensorboard: bool = option(False, "Write TensorBoard events, too.", may_change=True)

    def __post_init__(self) -> None:
        """Check what types and minimums cannot say.

        Raises:
            UsageError: settings that do not go together.
        """
        super().__post_init__()
        if self.load_size and any(a < b for a, b in zip(self.load_size, self.size, strict=True)):
            raise UsageError(
                f"--load-size: expected at least --size {self.size[0]}x{self.size[1]}, "
                f"found {self.load_size[0]}x{self.load_size[1]}"
            )
        if self.label_nc and self.direction == "BtoA":
            raise UsageError("--direction BtoA: label maps are the input (A) always; expected AtoB with --label-nc")
        if self.best_by in ("FID", "KID") and not self.features:
            raise UsageError(f"--best-by {self.best_by}: needs a feature network; give --features FILE")
        if self.steps is None and self.epochs + self.epochs_decay == 0:
            raise UsageError("--epochs and --epochs-decay: expected at least one epoch in all, found 0")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Base of the settings of one model type."""

    def unstated(self, flags: Set[str]) -> Set[str]:
        """Settings to take as if nobody had stated them, given what was stated as `flags`; see `distill`."""
        return set()


def flag(name: str) -> str:
    """The flag of a field: `lambda_l1` is `--lambda-l1`."""
    return "--" + name.replace("_", "-").lower()


class _SizeType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        if isinstance(value, (tuple, list)):
            value = "x".join(map(str, value))
        match = re.fullmatch(r"(\d{1,7})(?:x(\d{1,7}))?", str(value))
        if match is None or 0 in (height := int(match[1]), width := int(match[2] or match[1])):
            self.fail(f"expected N or HEIGHTxWIDTH such as 256 or 256x512, found {value!r}", param, ctx)
        return height, width


SIZE = _SizeType()
"""Click type of an image size."""


def options_of(config: type) -> list[click.Option]:
    """One click option for each field of a config dataclass."""
    hints = typing.get_type_hints(config)
    return [_option(f.name, hints[f.name], f.default, f.metadata["help"]) for f in dataclasses.fields(config)]


def _option(name: str, hint: Any, default: Any, help: str) -> click.Option:
    kind = _without_none(hint)
    declaration = flag(name)
    if kind is bool:
        declaration += "/--no-" + name.replace("_", "-")
    types_: dict[Any, Any] = {int: click.INT, float: click.FLOAT, str: click.STRING, bool: click.BOOL, Size: SIZE}
    literal = typing.get_origin(kind) is Literal
    return click.Option(
        [declaration, name],
        type=click.Choice(typing.get_args(kind)) if literal else types_[kind],
        default=default,
        show_default=_shown(default) if isinstance(default, tuple) else default not in (None, ""),
        help=help,
    )


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    return hint


def config_file_option(*configs: Callable[[], type]) -> click.Option:
    """`--config FILE`: values from a TOML file, which flags override."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None:
            hints = {name: hint for config in configs for name, hint in typing.get_type_hints(config()).items()}
            ctx.default_map = read_toml(Path(value), hints)

    return click.Option(
        ["--config"],
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=read,
        help="TOML file of settings, named like the flags; flags win.",
    )


def read_toml(path: Path, hints: dict[str, Any]) -> dict[str, Any]:
    """Read settings from a TOML file.

    Args:
        path: the file.
        hints: name to type of the settings that may stand in it.

    Raises:
        UsageError: unreadable, no TOML, an unknown key or a value of a wrong type, with file and line.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML ({error})") from error
    settings = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        where = f"{path}:{_line_of(key, text)}: {key}"
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(hints))}"
            raise UsageError(f"{where}: unknown setting; {hint}")
        kind = _without_none(hints[name])
        try:
            settings[name] = SIZE.convert(value, None, None) if kind == Size else decode(kind, value, where)
        except ModelError as error:
            raise UsageError(str(error)) from None
        except click.BadParameter as error:
            raise UsageError(f"{where}: {error.message}") from None
    return settings


def _line_of(key: str, text: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=|\s*\[{re.escape(key)}\]", line):
            return number
    return 1


def to_toml(*configs: Any) -> str:
    """Settings as TOML that `--config` reads back."""
    lines = []
    for config in configs:
        for name, value in dataclasses.asdict(config).items():
            if value is not None:
                # A JSON string, number, boolean or list is TOML as well.
                lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def stated(ctx: click.Context, *sources: ParameterSource) -> set[str]:
    """Which settings the user stated in one of `sources`: by flag or in a file."""
    return {name for name in ctx.params if ctx.get_parameter_source(name) in sources}


def without(config: Any, names: Set[str]) -> Any:
    """Settings with the defaults of `names`."""
    fields = dataclasses.fields(config)
    return dataclasses.replace(config, **{its.name: its.default for its in fields if its.name in names})


def resumed(before: Any, wanted: Any, changed: Set[str]) -> Any:
    """The settings of a resumed training: as before, except for what the user stated (`changed`) and may change.

    Raises:
        UsageError: a stated setting differs and would make another training of it.
    """
    changes = {}
    for its_field in dataclasses.fields(before):
        name = its_field.name
        old, new = getattr(before, name), getattr(wanted, name)
        if name not in changed or old == new:
            continue
        if not its_field.metadata["may_change"]:
            raise UsageError(
                f"--resume: this training began with {flag(name)} {_shown(old)}, found {_shown(new)}; "
                "leave the flag out, or start another run with another --out"
            )
        changes[name] = new
    return dataclasses.replace(before, **changes)


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
