"""The Card: all that a consumer must know about a model, from the checkpoint to the edge.

It is versioned JSON. It lives in a checkpoint under the key `card` and in an ONNX file under the metadata key
`i2i.card`. Each stage adds its record with `dataclasses.replace` and edits nothing that was there before.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from i2i_runtime.errors import ModelError

CARD_VERSION = 1
METADATA_KEY = "i2i.card"
"""The key under which an ONNX file carries its card in `metadata_props`."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network by its field name and the arguments that rebuild it."""

    name: str
    """For example `unet_256` or `resnet_9blocks`."""
    arguments: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What a network's image tensor means."""

    channels: int = 3
    colour: Literal["RGB", "BGR", "GRAY", "MULTI"] = "RGB"
    """`MULTI`: channels that are no colours, in the order of the files."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """The values that black and white (0 and 255) have in the tensor."""

    @classmethod
    def of(cls, channels: int) -> ImageSpec:
        """What a number of channels means by default: grey, colour, or none."""
        colours: dict[int, Literal["GRAY", "RGB"]] = {1: "GRAY", 3: "RGB"}
        return cls(channels=channels, colour=colours.get(channels, "MULTI"))


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """Which image sizes a model takes."""

    height: int | None = None
    """Pixels; None where any height goes that keeps the other rules."""
    width: int | None = None
    multiple_of: int = 1
    """Height and width must be a multiple of this many pixels."""
    minimum: int = 1
    """Smallest height and width in pixels."""
    smallest: tuple[int, int] | None = None
    """(height, width) that an engine was built for at least; None where `minimum` says all."""
    largest: tuple[int, int] | None = None
    """(height, width) that an engine was built for at most; None where there is no limit."""

    def allows(self, size: tuple[int, int]) -> bool:
        """Whether (height, width) keep the multiple and the limits."""
        low, high = self.smallest or (self.minimum,) * 2, self.largest or (math.inf,) * 2
        return all(
            side % self.multiple_of == 0 and max(self.minimum, least) <= side <= most
            for side, least, most in zip(size, low, high, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class LabelSpec:
    """How a label map enters a model that takes one (pix2pixHD section 3.3)."""

    count: int
    """Number of classes; ids run from 0 to count - 1."""
    instance_edges: bool = False
    """Whether a boundary map of the instance ids is one more input channel."""
    styles: int = 0
    """Style codes to choose from; 0 where the model has one look only."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What the trainer did."""

    data: str
    """Name of the data set's folder (never its whole path)."""
    size: tuple[int, int]
    """(height, width) of the training images."""
    batch: int
    steps: int
    epochs: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class StudentRecord:
    """Whose student a generator is, and what it lost: measured on held-out pictures, nothing where `pictures` is 0."""

    teacher: str
    """Name of the generator whose outputs it was trained to repeat."""
    teacher_sha256: str
    """Digest of the teacher's checkpoint file."""
    teacher_generator: Architecture
    pictures: int = 0
    """Held-out pictures on which it was measured, at the size of its training."""
    psnr_db: float | None = None
    """Mean over the pictures of the peak signal-to-noise ratio to the teacher's outputs, in dB; 100 at most."""
    ssim: float | None = None
    """Mean structural similarity to the teacher's outputs; None of pictures under 11 pixels."""
    truth_l1: float | None = None
    """Of pairs: mean absolute difference from the targets, in units of [-1, 1]."""
    truth_ssim: float | None = None
    """Of pairs: mean structural similarity to the targets."""
    teacher_truth_l1: float | None = None
    """What the teacher has in place of `truth_l1`, on the same pictures."""
    teacher_truth_ssim: float | None = None
    """What the teacher has in place of `truth_ssim`."""


@dataclass(frozen=True, kw_only=True)
class SizeProfile:
    """The sizes that a dynamic graph is meant for: what TensorRT calls an optimisation profile."""

    smallest: tuple[int, int]
    """(height, width) in pixels, as are the others."""
    typical: tuple[int, int]
    """The size that an engine is tuned for."""
    largest: tuple[int, int]
    batch: int = 1
    """The largest number of images at once; 1 is the smallest, and what an engine is tuned for."""


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """What the exporter did."""

    opset: int
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    graph_io: Literal["float", "uint8"]
    """`float`: NCHW float32 in the card's value range. `uint8`: NHWC uint8 BGR, pre- and post-processing inside."""
    norm_statistics: Literal["image", "running"]
    """Whether batch norm layers normalise with the image's own statistics or with those gathered in training."""
    style: int | None = None
    """The style that was built in; None where it is chosen at run time, or there is none."""
    profile: SizeProfile | None = None
    """The sizes of a dynamic graph; None of a graph of one size and batch 1."""
    kept_fp32: tuple[str, ...] = ()
    """Layers of an fp16 or int8 graph that stay in FP32, since real pictures asked for it."""
    norm_channels: int = 0
    """Channels of all norms of a graph that takes and gives their statistics (`norm_statistics`); 0 of another."""


@dataclass(frozen=True, kw_only=True)
class ParityRecord:
    """How closely one engine repeats the PyTorch generator on real pictures."""

    engine: str
    pictures: int
    max_abs: float
    """Largest difference: in the tensor's units for float graphs, in grey levels for uint8 graphs."""
    mean_abs: float
    psnr_db: float
    """Peak signal-to-noise ratio over all pictures, in dB; 999 stands for identical."""
    tolerance: float | None = None
    """The largest `max_abs` that the export would have accepted; None where `min_psnr_db` decides."""
    worst_psnr_db: float | None = None
    """That of the picture that fares worst."""
    min_psnr_db: float | None = None
    """The lowest `worst_psnr_db` that the export would have accepted."""
    ssim: float | None = None
    """Mean structural similarity; None of pictures under 11 pixels."""


@dataclass(frozen=True, kw_only=True)
class MadeWith:
    """Where a model comes from."""

    versions: dict[str, str] = field(default_factory=dict)
    """Tool name to version."""
    source_sha256: str | None = None
    """Digest of the checkpoint file that was exported."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The contract between training, export and runtime."""

    name: str
    model_type: str
    """`pix2pix`, `cyclegan`, ...; of a student its teacher's; `unknown` for a foreign ONNX file."""
    direction: Literal["AtoB", "BtoA"]
    generator: Architecture
    input: ImageSpec
    output: ImageSpec
    size: SizeRule
    labels: LabelSpec | None = None
    training: TrainingRecord | None = None
    student: StudentRecord | None = None
    """None where it was not distilled from another generator."""
    export: ExportRecord | None = None
    parity: tuple[ParityRecord, ...] = ()
    made_with: MadeWith = MadeWith()
    version: int = CARD_VERSION

    def to_json(self, indent: int | None = None) -> str:
        """The card as JSON text; `from_json` gives an equal card back."""
        return json.dumps(dataclasses.asdict(self), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str = "card") -> Card:
        """Read a card, telling `where` it was found when something is wrong with it.

        Raises:
            ModelError: no JSON, another version, a missing or unknown field, a wrong type, an impossible number.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{where}: the card is not JSON ({error}); export the model again") from None
        if not isinstance(data, dict):
            raise ModelError(f"{where}: expected the card to be a JSON object, found {type(data).__name__}")
        version = data.get("version")
        if version != CARD_VERSION:
            raise ModelError(
                f"{where}: card version {version!r} is unknown, this i2i reads version {CARD_VERSION}; "
                "use the i2i that wrote it, or export the model again"
            )
        card = decode(cls, data, where)
        _check_numbers(card, where)
        return card


def _check_numbers(card: Card, where: str) -> None:
    """Refuse numbers that would end in a division by zero or an empty picture much later."""
    for side, spec in (("input", card.input), ("output", card.output)):
        black, white = spec.value_range
        if black == white:
            raise _wrong(f"{where}.{side}.value_range", "two different values", list(spec.value_range))
        if spec.channels < 1:
            raise _wrong(f"{where}.{side}.channels", "at least 1", spec.channels)
    parts = {"size": card.size, "export.profile": card.export.profile if card.export is not None else None}
    for part, facts in parts.items():
        for name, found in dataclasses.asdict(facts).items() if facts is not None else ():
            lengths = found if isinstance(found, tuple) else (found,)
            if any(length is not None and length < 1 for length in lengths):
                raise _wrong(f"{where}.{part}.{name}", "at least 1", found)


def decode(kind: type[T], data: object, where: str) -> T:
    """Turn parsed JSON into `kind`: a dataclass, or what a dataclass field may hold.

    Raises:
        ModelError: names the path of the field that is missing, unknown or of a wrong type.
    """
    return typing.cast(T, _decode(kind, data, where))


def _decode(kind: Any, data: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _decode(option, data, path)
            except ModelError:
                if dataclasses.is_dataclass(option) and isinstance(data, dict):
                    raise
        raise _wrong(path, kind, data)
    if origin is Literal:
        if data in arguments and type(data) in {type(a) for a in arguments}:
            return data
        raise _wrong(path, f"one of {', '.join(map(str, arguments))}", data)
    if origin is dict and isinstance(data, dict):
        return {str(key): _decode(arguments[1], value, f"{path}.{key}") for key, value in data.items()}
    if origin is tuple and isinstance(data, list):
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(data):
            raise _wrong(path, f"{len(kinds)} values", data)
        return tuple(_decode(k, value, f"{path}[{i}]") for i, (k, value) in enumerate(zip(kinds, data, strict=True)))
    # Neither NaN nor infinity, which to_json would refuse, nor an int beyond float's range.
    if kind is float:
        if type(data) in (int, float) and abs(data) <= sys.float_info.max:
            return float(data)
        raise _wrong(path, "a finite number", data)
    if isinstance(kind, type) and type(data) is kind:
        return data
    raise _wrong(path, kind, data)


def _decode_dataclass(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong(path, f"an object ({kind.__name__})", data)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(data.keys() - fields.keys()):
        raise ModelError(f"{path}: unknown field {_short(unknown[0])}; {kind.__name__} has {', '.join(fields)}")
    for name, its_field in fields.items():
        has_default = not (its_field.default is its_field.default_factory is dataclasses.MISSING)
        if name not in data and not has_default:
            raise ModelError(f"{path}.{name}: missing, expected {_name(hints[name])}")
    return kind(**{name: _decode(hints[name], value, f"{path}.{name}") for name, value in data.items()})


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _wrong(path: str, expected: Any, found: Any) -> ModelError:
    return ModelError(f"{path}: expected {_name(expected)}, found {_short(found)}")


def _short(found: Any) -> str:
    """What a file holds, on one line and not the whole of it."""
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:80]}..."
