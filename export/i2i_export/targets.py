"""What an ONNX file can become: itself, OpenVINO's IR, or a plan of TensorRT or TensorRT-RTX."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from i2i_export.staging import parts
from i2i_runtime.card import METADATA_KEY, Card, SizeProfile
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.base import Engine, TensorSpec
from i2i_runtime.engines.build import BuildOptions, OnProgress, build_plan
from i2i_runtime.engines.manifest import PLAN_SUFFIXES, Library, ShapeRange, read_manifest, write_manifest
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import DeviceError, I2IError, ModelError, SinkError, UsageError, reason

Target = Literal["onnx", "openvino", "tensorrt", "tensorrt-rtx"]
PLANS: dict[str, Library] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The targets that are plans, and the library of each."""
SUFFIXES: dict[Target, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "openvino": (".xml",),
    "tensorrt": PLAN_SUFFIXES,
    "tensorrt-rtx": PLAN_SUFFIXES,
}


def choose_target(target: Target | None, output: Path | None) -> Target:
    """The target that was named, or the one that the output's suffix means.

    Of the two that write plans, the one whose library is installed: TensorRT before TensorRT-RTX.

    Raises:
        UsageError: a suffix that means none, or another than the one that was named.
    """
    suffix = output.suffix.lower() if output is not None else None
    meant = [name for name, suffixes in SUFFIXES.items() if suffix in suffixes]
    if target is not None:
        if suffix is not None and target not in meant:
            raise UsageError(f"--output {output}: expected a name ending in {SUFFIXES[target][0]} for {target}")
        return target
    if suffix is None:
        return "onnx"
    if not meant:
        raise UsageError(f"--output {output}: expected a name ending in .onnx, .xml, .plan or .engine")
    if len(meant) > 1 and importlib.util.find_spec("tensorrt") is None:
        return "tensorrt-rtx" if importlib.util.find_spec("tensorrt_rtx_bindings") else "tensorrt"
    return meant[0]


def require(target: Target, output: Path, weights: Collection[Path] = ()) -> None:
    """Find out before minutes are spent what stands in a target's way; TensorRT may be on the device only.

    Args:
        target: what is to be made.
        output: where.
        weights: files that hold weights of the model that it is made of.

    Raises:
        ModelError: its library is not installed.
        SinkError: what would be overwritten is not an earlier export.
    """
    for part in parts(output):
        if part.is_dir():
            raise SinkError(f"{part}: expected a file or nothing, found a folder; choose another --output")
        is_someone_elses = part != output and part.exists() and not output.exists()
        if is_someone_elses or part.resolve() in {path.resolve() for path in weights}:
            raise SinkError(f"{part}: it holds something else than an earlier export; choose another --output")
    if target == "openvino":
        _openvino()
    elif target == "tensorrt-rtx":
        nvinfer.load_library("tensorrt_rtx")


def obstacle(target: Target) -> str | None:
    """Why a target cannot be built on this machine; None where it can."""
    if target != "tensorrt":
        return None
    try:
        nvinfer.load_library("tensorrt")
        nvinfer.require_gpu()
    except I2IError as error:
        return str(error)
    return None


def write(
    graph: Path,
    path: Path,
    target: Target,
    card: Card | None,
    inputs: Sequence[TensorSpec],
    options: BuildOptions,
    use_cache: bool,
    profile: SizeProfile | None = None,
) -> None:
    """Make a target's file of an ONNX file.

    Args:
        graph: the ONNX file.
        path: what to write.
        target: what it is to become.
        card: the graph's.
        inputs: the graph's.
        options: of plans.
        use_cache: of plans, see `build_plan`.
        profile: the sizes of a dynamic graph whose card does not name them.

    Raises:
        ModelError: the library is missing or refuses the graph.
        DeviceError: TensorRT without a GPU.
    """
    if target == "openvino":
        _write_openvino(graph, path, card)
        return
    if card is not None and card.export is not None and card.export.profile is not None:
        profile = card.export.profile
    shapes = _shape_ranges(graph, inputs, profile)
    with _build_progress() as on_progress:
        report = build_plan(
            graph,
            path,
            PLANS[target],
            card=_limited(card),
            precision=card.export.precision if card is not None and card.export is not None else "unknown",
            shapes=shapes,
            options=options,
            on_progress=on_progress,
            use_cache=use_cache,
        )
    made = "from the engine cache" if report.from_cache else "built"
    manifest = report.manifest
    library = f"{nvinfer.LIBRARY_NAMES[manifest.library]} {manifest.library_version}"
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{path.name}: {made} in {report.seconds:.1f} s with {library}", err=True)


@contextmanager
def opened(path: Path, target: Target) -> Iterator[Engine | None]:
    """The file in its engine; None where this machine cannot run it, which is said."""
    engine = None
    try:
        if target not in PLANS or nvinfer.gpu() is not None:
            engine = open_engine(path)
        else:
            click.echo(f"{path.name}: not run here, this machine has no GPU", err=True)
    except DeviceError as error:
        # A plan may be meant for other GPUs than the one at hand.
        click.echo(f"{path.name}: not run here ({error})", err=True)
    if engine is None:
        yield None
        return
    with engine:
        yield engine


def set_card(path: Path, target: Target, card: Card) -> None:
    """Give a file that is written already a newer card."""
    if target in PLANS:
        manifest = read_manifest(path)
        assert manifest is not None, "a plan that was just built has its sidecar"
        write_manifest(path, replace(manifest, card=_limited(card)))
    elif target == "openvino":
        _write_openvino(path, path, card)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ModelError(f"OpenVINO cannot be loaded ({reason(error)}); pip install 'i2i[openvino]'") from error
    return openvino


def _write_openvino(graph: Path, path: Path, card: Card | None) -> None:
    ov = _openvino()
    beside = path.with_name(f"{path.stem}.partial.xml")
    try:
        model = ov.Core().read_model(graph)
        if card is not None:
            model.set_rt_info(card.to_json(), [METADATA_KEY])
        # The graph's types are its precision: no weights are rounded behind the proof's back.
        ov.save_model(model, beside, compress_to_fp16=False)
        del model
    except Exception as error:  # RuntimeError mostly, also of pybind11's making
        from i2i_runtime.engines.openvino import openvino_reason

        raise ModelError(f"{graph.name}: OpenVINO refuses the graph ({openvino_reason(error)})") from error
    beside.with_suffix(".bin").replace(path.with_suffix(".bin"))
    beside.replace(path)


def _limited(card: Card | None) -> Card | None:
    """The card of a plan: a dynamic one takes the sizes of its profile and no others."""
    profile = card.export.profile if card is not None and card.export is not None else None
    if card is None or profile is None:
        return card
    return replace(card, size=replace(card.size, smallest=profile.smallest, largest=profile.largest))


def _shape_ranges(graph: Path, inputs: Sequence[TensorSpec], profile: SizeProfile | None) -> tuple[ShapeRange, ...]:
    """The range of each input with free axes: its batch, then height and width, wherever its channels stand."""
    ranges = []
    for spec in inputs:
        if None not in spec.shape:
            continue
        if profile is None:
            raise UsageError(
                f"{graph.name}: input {spec.name} is {spec} and its card names no sizes; give --dynamic --size N, "
                "and --min-size, --max-size, --max-batch where they matter"
            )
        sizes = ((1, profile.smallest), (1, profile.typical), (profile.batch, profile.largest))
        smallest, typical, largest = (_filled(spec.shape, batch, size) for batch, size in sizes)
        ranges.append(ShapeRange(name=spec.name, smallest=smallest, typical=typical, largest=largest))
    return tuple(ranges)


def _filled(shape: tuple[int | None, ...], batch: int, size: tuple[int, int]) -> tuple[int, ...]:
    sides = iter(size)
    rest = tuple(next(sides, 1) if length is None else length for length in shape[1:])
    return (batch if shape[0] is None else shape[0], *rest)


@contextmanager
def _build_progress() -> Iterator[OnProgress]:
    """Shows the builder's phases: a bar each on a terminal, and nothing elsewhere, where one line tells the result."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def on_progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase)
            progress.update(tasks[phase], completed=done, total=total)

        yield on_progress
