"""The quickest way to run a model here that still gives the right answer: tried out, not guessed.

`zebra.onnx` can be run by several libraries, on several devices, and other exports of the same checkpoint may lie
beside it: `zebra-int8.xml`, `zebra.plan`. Each way is loaded, compared with the model in FP32 on a few pictures, and
timed in turns with the others. What was found is kept, so that the next start does not try anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from i2i_runtime.card import Architecture, Card, ImageSpec, SizeRule, decode
from i2i_runtime.digest import file_sha256
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.base import Backend, Device, Engine, Precision, Tensor
from i2i_runtime.engines.cards import card_of
from i2i_runtime.engines.manifest import PLAN_SUFFIXES
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import I2IError, ModelError
from i2i_runtime.frame import Image
from i2i_runtime.image import image_to_tensor, plan_fit, tensor_to_image

MIN_PSNR_DB = 40.0
"""An answer is right if the 8-bit picture that fares worst is at least this near to the model's own."""
IDENTICAL_DB = 999.0
_RECIPE = 1
"""Raise it when the way of choosing changes: what was chosen in an older way is then tried anew."""
_PICTURES = 3
_CHECK_SECONDS = 3.0
"""Pictures are left out, but for the first, once the reference has taken as long."""
_TIMING_SECONDS = 4.0
_ROUNDS = (3, 15)
"""The fewest and the most rounds of timing."""
_TURN_SECONDS = 0.05
"""How long one way runs until it is the next one's turn, where it is quick."""
_HOPELESS = 1.5
"""A way that takes so many times as long as the quickest in the comparison is not timed any further."""
_REST_SECONDS = 0.01
"""Threads of a library go on spinning for a while after a run, and would slow the next one down."""
_PLAIN_SIZE = (256, 256)
_CPU_INFO = Path("/proc/cpuinfo")
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-bindings", "cuda-bindings")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to run the model, and what came of it."""

    file: str
    """Name of the model file, in the folder of the model that was asked for."""
    backend: Backend | None
    """For an ONNX file, the library; None where the file says it."""
    device: Device
    precision: Precision | None
    provider: str = ""
    """What really runs it; empty where it could not be loaded."""
    psnr_db: float | None = None
    """Of the 8-bit picture that fares worst, against the model in FP32; 999 stands for identical."""
    median_ms: float | None = None
    spread_ms: tuple[float, float] | None = None
    """The quickest and the slowest run, in ms."""
    verdict: str = ""
    """`chosen`, or why not."""

    @property
    def name(self) -> str:
        """For a table: `zebra.onnx, OpenVINO CPU`."""
        words = (self.backend or "", self.device, self.precision or "")
        return f"{self.file}, {self.provider or ' '.join(filter(None, words))}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `choose_engine` chose, and why."""

    folder: Path
    chosen: Row
    rows: tuple[Row, ...]
    """All ways that were tried."""
    notes: tuple[str, ...]
    """What else one may want to know, a line each."""
    is_from_cache: bool
    """Whether an earlier start had tried all this."""
    threads: int | None
    trust: bool

    def open(self) -> Engine:
        """Load the chosen way.

        Raises:
            ModelError, DeviceError: see `open_engine`.
        """
        row = self.chosen
        return _open(self.folder, row, self.threads, self.trust)

    def explain(self) -> str:
        """A table of all ways for a person, and the notes below it."""
        lines = [("engine", "median ms", "range ms", "PSNR dB", "verdict")]
        for row in self.rows:
            low, high = row.spread_ms or (0.0, 0.0)
            lines.append(
                (
                    row.name,
                    f"{row.median_ms:.1f}" if row.median_ms is not None else "-",
                    f"{low:.1f} to {high:.1f}" if row.spread_ms else "-",
                    _decibels(row.psnr_db) if row.psnr_db is not None else "-",
                    row.verdict,
                )
            )
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        table = ["  ".join([*map(str.ljust, line, widths), line[4]]).rstrip() for line in lines]
        return "\n".join([*table, *self.notes])


def choose_engine(
    model: str | Path,
    device: Device = "auto",
    threads: int | None = None,
    *,
    trust: bool = False,
    pictures: Sequence[Image] | None = None,
) -> Choice:
    """Find the quickest engine for a model that gives the right answer.

    Tried are the file in every library, on every device and in every precision that is here, and all other exports of
    the same checkpoint in its folder. What fails is a line of the table and no error.

    Args:
        model: the model file, which says what is right.
        device: `auto` tries all devices.
        threads: CPU threads for one inference; None leaves the choice to each library.
        trust: see `open_engine`.
        pictures: (h, w, 3) uint8 BGR pictures to compare on, such as the first frames of the camera; a model of free
            size is timed at their size. None draws some.

    Raises:
        ModelError: the model cannot be run, or nothing gives the right answer.
    """
    model = Path(model)
    card = card_of(model)
    siblings, notes = _siblings(model, card)
    notes += cpu_notes()
    rows = [row for path in (model, *siblings) for row in _ways(path, device)]
    entry = _cache_entry(model, rows, device, threads, pictures)
    stored = _read(entry) if entry else None
    if stored is None:
        with contextlib.ExitStack() as stack:
            stored = _Stored(rows=_tried(stack, model, rows, threads, trust, pictures), notes=tuple(notes))
        # A GPU whose driver is missing today may be there tomorrow, and ONNX Runtime does not say which it is.
        is_final = all(row.provider or row.backend != "onnxruntime" or row.device == "cpu" for row in stored.rows)
        if entry and is_final:
            _write(entry, stored)
        is_from_cache = False
    else:
        is_from_cache = True
    chosen = next((row for row in stored.rows if row.verdict == _CHOSEN), None)
    if chosen is None:
        reasons = "; ".join(f"{row.name}: {row.verdict}" for row in stored.rows)
        raise ModelError(f"{model}: no engine here gives the right answer: {reasons or f'none for --device {device}'}")
    return Choice(
        folder=model.parent,
        chosen=chosen,
        rows=stored.rows,
        notes=stored.notes,
        is_from_cache=is_from_cache,
        threads=threads,
        trust=trust,
    )


_CHOSEN = "chosen"


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What is kept of a choice."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    recipe: int = _RECIPE


# Which ways there are -------------------------------------------------------------------------------------------------


def _siblings(model: Path, card: Card | None) -> tuple[list[Path], list[str]]:
    """Other exports of the model's checkpoint in its folder, and a note for each that does something else."""
    if card is None or card.made_with.source_sha256 is None:
        return [], [f"{model.name} does not say which checkpoint it is from: other files beside it were not tried"]
    found, notes = [], []
    for path in sorted(model.parent.iterdir()):
        if path.suffix.lower() not in (".onnx", ".xml", *PLAN_SUFFIXES) or path.samefile(model):
            continue
        other = card_of(path)
        if other is None or other.made_with.source_sha256 != card.made_with.source_sha256:
            continue
        differs = [word for word, its, own in _purposes(other, card) if its != own]
        if differs:
            notes.append(f"{path.name} was not tried: it has another {' and '.join(differs)}")
        else:
            found.append(path)
    return found, notes


def _purposes(other: Card, card: Card) -> Iterator[tuple[str, object, object]]:
    yield "direction", other.direction, card.direction
    yield "style", _style(other), _style(card)
    yield "size", (other.size.height, other.size.width), (card.size.height, card.size.width)


def _style(card: Card) -> int | None:
    return card.export.style if card.export else None


def _ways(path: Path, device: Device) -> Iterator[Row]:
    """All ways to run one file on a device that are installed here."""
    row = functools.partial(Row, file=path.name)
    suffix = path.suffix.lower()
    if suffix in PLAN_SUFFIXES and device in ("auto", "cuda", "tensorrt"):
        yield row(backend=None, device="auto", precision=None)
    # A library that is broken is as good as none: the others may do, and `open_engine` says what is wrong with it.
    if suffix == ".onnx":
        with contextlib.suppress(ImportError):
            from i2i_runtime.engines import onnxruntime

            for here in onnxruntime.devices_here():
                if device in ("auto", here):
                    yield row(backend="onnxruntime", device=here, precision=None)
    if suffix in (".onnx", ".xml"):
        with contextlib.suppress(ImportError):
            from i2i_runtime.engines import openvino

            for here in openvino.devices_here():
                for precision in openvino.precisions(here) if device in ("auto", here) else ():
                    yield row(backend="openvino" if suffix == ".onnx" else None, device=here, precision=precision)


def cpu_notes() -> list[str]:
    """What this CPU lacks that would make reduced precision quick, on one line or none."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # `Features` on ARM, where the dot product is what VNNI is on x86.
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    flags = set(line.partition(":")[2].split())
    if not flags:
        return []
    lacks = [
        name
        for name, any_of in (
            ("bf16", {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}),
            ("int8 (VNNI)", {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}),
        )
        if not flags & any_of
    ]
    words = f"neither {lacks[0]} nor {lacks[1]}" if len(lacks) == 2 else f"no {lacks[0]}" if lacks else ""
    return [f"this CPU has {words} instructions: reduced precision gains little"] if words else []


# Trying them ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Contender:
    """A way that gives the right answer."""

    row: Row
    engine: Engine
    inputs: tuple[Tensor, ...]
    out: Tensor
    seconds: list[float]
    """How long each run took, those of the comparison apart."""
    guess: float
    """How long the quickest run of the comparison took."""


def _open(folder: Path, row: Row, threads: int | None, trust: bool) -> Engine:
    return open_engine(
        folder / row.file, row.device, threads, trust=trust, backend=row.backend, precision=row.precision
    )


def _tried(
    stack: contextlib.ExitStack,
    model: Path,
    rows: Sequence[Row],
    threads: int | None,
    trust: bool,
    pictures: Sequence[Image] | None,
) -> tuple[Row, ...]:
    """The rows with what came of them."""
    reference = stack.enter_context(_open(model.parent, _reference(model), threads, trust))
    card = reference.card or _assumed_card(reference)
    size = _size(card)
    maps = _drawn_labels(card, size) if card.labels is not None else []
    shown = [_fitted(picture, card) for picture in (pictures or _drawn(size))] if card.labels is None else []
    count = len(maps) or len(shown)

    def inputs(engine: Engine, index: int) -> tuple[Tensor, ...]:
        return _label_inputs(engine, maps[index]) if maps else (_image_input(engine, card, shown[index]),)

    right: list[Image] = []
    began = time.perf_counter()
    for index in range(count):
        right.append(_picture(reference, card, reference.run(*inputs(reference, index))))
        if time.perf_counter() - began > _CHECK_SECONDS:
            break
    # Two copies of a large model may not fit.
    reference.close()

    done: dict[int, Row] = {}
    contenders: dict[int, _Contender] = {}
    for index, row in enumerate(rows):
        outcome = _compared(stack, model.parent, row, threads, trust, card, inputs, right)
        if isinstance(outcome, Row):
            done[index] = outcome
            continue
        contenders[index] = outcome
        quickest = min(contender.guess for contender in contenders.values())
        for place in [place for place, c in contenders.items() if c.guess > _HOPELESS * quickest]:
            slow = contenders.pop(place)
            slow.engine.close()
            done[place] = dataclasses.replace(
                slow.row, median_ms=slow.guess * 1e3, verdict=f"right, but {slow.guess / quickest:.1f} times as slow"
            )
    _time(list(contenders.values()))
    medians = {place: float(np.median(contender.seconds)) for place, contender in contenders.items()}
    for place, median in medians.items():
        best = min(medians.values())
        seconds = contenders[place].seconds
        is_chosen = place == min(medians, key=lambda key: medians[key])
        done[place] = dataclasses.replace(
            contenders[place].row,
            median_ms=median * 1e3,
            spread_ms=(min(seconds) * 1e3, max(seconds) * 1e3),
            verdict=_CHOSEN if is_chosen else f"right, but {median / best:.2f} times as slow",
        )
    return tuple(done[index] for index in range(len(rows)))


def _reference(model: Path) -> Row:
    """The plainest way to run the model: ONNX Runtime or OpenVINO in FP32 on the CPU."""
    rows = [*_ways(model, "cpu"), Row(file=model.name, backend=None, device="auto", precision=None)]
    return next(row for row in rows if row.precision in (None, "f32"))


def _compared(
    stack: contextlib.ExitStack,
    folder: Path,
    row: Row,
    threads: int | None,
    trust: bool,
    card: Card,
    inputs: Callable[[Engine, int], tuple[Tensor, ...]],
    right: Sequence[Image],
) -> Row | _Contender:
    """Load one way and compare its answers; a row that is done if it fails or is wrong."""
    try:
        engine = stack.enter_context(_open(folder, row, threads, trust))
    except I2IError as error:
        return dataclasses.replace(row, verdict=str(error))
    row = dataclasses.replace(row, provider=engine.provider)
    worst, seconds = IDENTICAL_DB, []
    try:
        given = inputs(engine, 0)
        out = engine.run(*given).copy()
        for index, wanted in enumerate(right):
            given = inputs(engine, index)
            began = time.perf_counter()
            engine.run(*given, out=out)
            seconds.append(time.perf_counter() - began)
            worst = min(worst, _psnr(_picture(engine, card, out), wanted))
    except I2IError as error:
        engine.close()
        return dataclasses.replace(row, verdict=str(error))
    row = dataclasses.replace(row, psnr_db=worst)
    if worst < MIN_PSNR_DB:
        engine.close()
        return dataclasses.replace(
            row,
            median_ms=min(seconds) * 1e3,
            verdict=f"wrong answer: {worst:.1f} dB, expected at least {MIN_PSNR_DB:g}",
        )
    return _Contender(row=row, engine=engine, inputs=given, out=out, seconds=[], guess=min(seconds))


def _time(contenders: Sequence[_Contender]) -> None:
    """Run all in turns: what else the machine does then slows all of them alike."""
    began = time.perf_counter()
    for done in range(_ROUNDS[1]):
        if done >= _ROUNDS[0] and time.perf_counter() - began > _TIMING_SECONDS:
            break
        for contender in contenders:
            time.sleep(_REST_SECONDS)
            runs = max(1, min(20, round(_TURN_SECONDS / contender.guess)))
            if runs > 1:
                contender.engine.run(*contender.inputs, out=contender.out)
            for _ in range(runs):
                start = time.perf_counter()
                contender.engine.run(*contender.inputs, out=contender.out)
                contender.seconds.append(time.perf_counter() - start)


# What goes in and comes out -------------------------------------------------------------------------------------------


def _assumed_card(engine: Engine) -> Card:
    """For a file without a card: any picture will do to compare one way of running it with another.

    Raises:
        ModelError: it takes no pictures.
    """
    channels = [
        spec.shape[3 if spec.dtype == np.uint8 else 1] if len(spec.shape) == 4 else None
        for spec in (*engine.inputs, *engine.outputs)
    ]
    if len(engine.inputs) != 1 or channels[0] not in (1, 3) or channels[1] not in (1, 3):
        found = f"{', '.join(map(str, engine.inputs))} -> {', '.join(map(str, engine.outputs))}"
        raise ModelError(
            f"{engine.name}: no engine can be chosen for a model without a card that takes no pictures ({found}); "
            "name an engine"
        )
    height, width = engine.inputs[0].shape[1:3] if engine.inputs[0].dtype == np.uint8 else engine.inputs[0].shape[2:]
    return Card(
        name=engine.name,
        model_type="unknown",
        direction="AtoB",
        generator=Architecture(name="unknown"),
        input=ImageSpec.of(channels[0]),
        output=ImageSpec.of(channels[1]),
        size=SizeRule(height=height, width=width, multiple_of=1 if height else 32),
    )


def _size(card: Card) -> tuple[int, int]:
    """(height, width) that the model is meant for."""
    typical = card.export.profile.typical if card.export and card.export.profile else None
    return plan_fit(*(typical or (card.training.size if card.training else _PLAIN_SIZE)), card.size, "stretch").model


def _fitted(picture: Image, card: Card) -> Image:
    return plan_fit(picture.shape[0], picture.shape[1], card.size, "stretch").apply(picture)


def _drawn(size: tuple[int, int]) -> list[Image]:
    """Pictures with what photographs have: smooth light, edges of all contrasts, texture and a little noise."""
    height, width = size
    drawn = []
    for seed in range(_PICTURES):
        rng = np.random.default_rng(seed)
        light = rng.uniform(30, 225, (3 + seed, 4 + seed, 3)).astype(np.float32)
        picture: Tensor = np.asarray(cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC))
        for _ in range(24):
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            side = float(rng.uniform(0.03, 0.3)) * min(size)
            colour = rng.uniform(0, 255, 3).tolist()
            corner, opposite = (int(x), int(y)), (int(x + side), int(y + side * rng.uniform(0.3, 2)))
            if rng.random() < 0.6:
                cv2.rectangle(picture, corner, opposite, colour, cv2.FILLED)
            else:
                cv2.circle(picture, corner, int(side / 2), colour, cv2.FILLED)
            cv2.line(picture, corner, opposite, rng.uniform(0, 255, 3).tolist(), 1)
        texture = rng.normal(0, 18, (height // 2 + 1, width // 2 + 1, 1)).astype(np.float32)
        # Texture on one half only: smooth walls are where rounding shows.
        texture[:, : texture.shape[1] // 2] *= 0.1
        picture += cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
        picture += rng.normal(0, 2, picture.shape)
        drawn.append(np.clip(picture, 0, 255).astype(np.uint8))
    return drawn


def _drawn_labels(card: Card, size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Label maps of blocks, each a class and an instance of its own."""
    count = card.labels.count if card.labels else 0
    styles = card.labels.styles if card.labels else 0
    drawn: list[dict[str, Tensor]] = []
    for seed in range(_PICTURES):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, count, (6, 10), np.int32)
        rows, columns = (np.arange(side) * blocks.shape[axis] // side for axis, side in enumerate(size))
        labels = blocks[rows][:, columns]
        instances = labels * 1000 + np.add.outer(rows * blocks.shape[1], columns).astype(np.int32)
        drawn.append(
            {
                "labels": labels[None, None],
                "instances": instances[None, None],
                "style": np.array([seed % styles if styles else 0], np.int64),
            }
        )
    return drawn


def _label_inputs(engine: Engine, named: dict[str, Tensor]) -> tuple[Tensor, ...]:
    unknown = [spec.name for spec in engine.inputs if spec.name not in named]
    if unknown:
        raise ModelError(f"{engine.name}: expected inputs {sorted(named)}, found {', '.join(unknown)}")
    return tuple(named[spec.name].astype(spec.dtype, copy=False) for spec in engine.inputs)


def _image_input(engine: Engine, card: Card, picture: Image) -> Tensor:
    dtype = engine.inputs[0].dtype if engine.inputs else None
    if dtype != np.uint8:
        return image_to_tensor(picture, card.input).astype(dtype, copy=False)
    if card.input.channels == 1:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)[None, :, :, None]
    return picture[None]


def _picture(engine: Engine, card: Card, output: Tensor) -> Image:
    """(h, w, 3) uint8 of what an engine returned.

    Raises:
        ModelError: it is not finite.
    """
    if output.dtype == np.uint8:
        return output[0] if output.shape[-1] == 3 else np.repeat(output[0], 3, axis=-1)
    if not np.isfinite(output).all():
        raise ModelError(f"{engine.name}: the model returned NaN or infinity")
    return tensor_to_image(output[0], card.output)


def _psnr(found: Image, wanted: Image) -> float:
    if found.shape != wanted.shape:
        return 0.0
    error = float(np.square(found.astype(np.float64) - wanted).mean())
    return min(IDENTICAL_DB, 10 * math.log10(255.0**2 / error)) if error else IDENTICAL_DB


def _decibels(psnr: float) -> str:
    return "same" if psnr >= IDENTICAL_DB else f"{psnr:.1f}"


# What is kept ---------------------------------------------------------------------------------------------------------


def _cache_entry(
    model: Path, rows: Sequence[Row], device: Device, threads: int | None, pictures: Sequence[Image] | None
) -> Path | None:
    """Where the choice of these ways on this machine is kept; None without a cache, or where a file is not there."""
    folder = nvinfer.cache_folder()
    gpu = nvinfer.gpu()
    try:
        names = sorted({row.file for row in rows} | {model.name})
        files = {name: _file_digest(model.parent / name) for name in names}
    except OSError:
        return None
    facts = {
        "recipe": _RECIPE,
        "model": model.name,
        "files": files,
        "ways": [dataclasses.astuple(row) for row in rows],
        "libraries": _versions(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpu": dataclasses.astuple(gpu) if gpu else None,
        "device": device,
        "threads": threads,
        "pictures": [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures or ()],
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{key}.choice.json" if folder else None


def _file_digest(path: Path) -> str:
    """Of an OpenVINO model both files, of which the other holds the weights."""
    weights = path.with_suffix(".bin")
    parts = [path, weights] if path.suffix.lower() == ".xml" and weights.is_file() else [path]
    return " ".join(map(file_sha256, parts))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("i2i", *_LIBRARIES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()} {platform.processor()}"


def _read(entry: Path) -> _Stored | None:
    """An earlier choice; None where there is none, or none that makes sense."""
    try:
        data = json.loads(entry.read_text(encoding="utf-8"))
        return decode(_Stored, data, entry.name) if isinstance(data, dict) else None
    except (OSError, ValueError, RecursionError, ModelError):
        return None


def _write(entry: Path, stored: _Stored) -> None:
    """A cache that is full or read-only costs the next start its time, and this one nothing."""
    beside = entry.with_name(f".{entry.name}.{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            beside.write_text(json.dumps(dataclasses.asdict(stored), indent=1), encoding="utf-8")
            beside.replace(entry)
        finally:
            beside.unlink(missing_ok=True)
