"""ONNX files become plans, with TensorRT 10, TensorRT 11 or TensorRT-RTX.

It lives in the runtime because an edge box must be able to rebuild a plan from its ONNX file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from i2i_runtime.card import Card
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.base import shape_words
from i2i_runtime.engines.manifest import (
    PLAN_SUFFIXES,
    Library,
    Manifest,
    ShapeRange,
    is_file_name,
    manifest_path,
    read_manifest,
    rebuild_command,
    write_manifest,
)
from i2i_runtime.errors import DeviceError, ModelError, SinkError, UsageError, reason, system_reason

_RECIPE = 2
"""Raise it when what `_configure` sets changes: plans of an older recipe are then built anew."""
_PROTOBUF_LIMIT = 1 << 31
"""What a protobuf message may hold; weights beyond it lie in files beside the model."""
OnProgress = Callable[[str, int, int], None]
"""Called with a phase's name, its steps done and its steps in all; phases are nested."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What the builder may spend, and where else the plan must run."""

    workspace_mib: int | None = None
    """Most GPU memory for scratch space, in MiB; None for all there is."""
    optimization_level: int | None = None
    """0 builds fastest, 5 searches longest; None for the library's own, 3."""
    timing_cache: Path | None = None
    """File of kernel timings: read where it exists, written after the build. TensorRT only."""
    hardware_compatible: bool = False
    """The plan runs on every GPU from Ampere on, somewhat slower. TensorRT only."""
    version_compatible: bool = False
    """The plan runs in later releases of the same major version. TensorRT only."""


DEFAULTS = BuildOptions()


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What came of a build."""

    manifest: Manifest
    seconds: float
    from_cache: bool
    notes: tuple[str, ...] = ()
    """What went wrong without harm to the plan, a line each."""


def build_plan(
    onnx: Path,
    plan: Path,
    library: Library,
    *,
    card: Card | None,
    precision: str,
    shapes: tuple[ShapeRange, ...] = (),
    options: BuildOptions = DEFAULTS,
    on_progress: OnProgress | None = None,
    use_cache: bool = True,
) -> BuildReport:
    """Build the plan of an ONNX file and write it with its sidecar.

    Args:
        onnx: the model; its types are the plan's precision.
        plan: the file to write, `.plan` or `.engine`.
        library: what builds it and will run it.
        card: the model's card, for the sidecar.
        precision: what the graph's types amount to, for the sidecar.
        shapes: a range for each input whose shape may vary.
        options: see `BuildOptions`.
        on_progress: see `OnProgress`; an exception that it raises ends the build and is raised here.
        use_cache: take the plan of an earlier build of the same file with the same options, and keep this one.

    Raises:
        UsageError: an option that the library does not have, a shape range that does not fit the model, a timing cache
            that cannot be read.
        ModelError: the library is not installed, or refuses the model; says why.
        DeviceError: TensorRT without a GPU.
        SinkError: the plan, or the timing cache, cannot be written.
    """
    began = time.perf_counter()
    _check_options(library, options)
    _check_target(plan)
    timings = _read_timing_cache(options.timing_cache) if options.timing_cache else b""
    model = _read_model(onnx)
    # The model's own SHA-256 says nothing about weights in files beside it.
    has_external_data = _has_external_data(model)
    trt = nvinfer.load_library(library)
    gpu = _gpu_for(library, onnx, plan)
    manifest = Manifest(
        plan_sha256="",
        onnx=onnx.name,
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        library=library,
        library_version=str(trt.__version__),
        precision=precision,
        shapes=shapes,
        gpu=gpu.name if gpu else None,
        # TensorRT-RTX compiles for the GPU at hand when the plan is loaded.
        compute_capability=gpu.compute_capability if gpu and library == "tensorrt" else None,
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
        platform=this_platform(),
        card=card,
    )
    entry = _cache_entry(manifest, options) if use_cache and not has_external_data else None
    stored = _cached_plan(entry) if entry else None
    from_cache = stored is not None
    notes: list[str] = []
    if stored is not None:
        content, build_seconds = stored
    else:
        content, new_timings = _build(
            trt, onnx, None if has_external_data else model, shapes, options, timings, on_progress
        )
        if options.timing_cache and new_timings is not None:
            notes += _write_timing_cache(options.timing_cache, new_timings)
        build_seconds = time.perf_counter() - began
    manifest = dataclasses.replace(
        manifest, plan_sha256=hashlib.sha256(content).hexdigest(), build_seconds=build_seconds
    )
    write_plan(plan, content, manifest)
    if entry and not from_cache:
        # A cache that is full or read-only costs the next build its time and this one nothing.
        with contextlib.suppress(SinkError, OSError):
            # What lies here will be loaded as native code: nobody else may put it there.
            entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_plan(entry, content, manifest)
    return BuildReport(
        manifest=manifest, seconds=time.perf_counter() - began, from_cache=from_cache, notes=tuple(notes)
    )


def this_platform() -> str:
    """For example `linux-x86_64`."""
    return f"{sys.platform}-{platform.machine()}"


def write_plan(plan: Path, content: bytes, manifest: Manifest) -> None:
    """Write a plan and its sidecar; a failure leaves both as they were.

    Two files cannot be moved in one step. The sidecar goes first: a reader looks at it first too, so of the two orders
    this one leaves it the least chance to meet an unequal pair; and a kill between the steps leaves a plan that its
    sidecar refuses, or a sidecar alone, but never a new plan that nothing vouches for.

    Raises:
        SinkError: the plan cannot be written.
    """
    beside = plan.with_name(f".{plan.name}.partial")
    sidecar = manifest_path(plan)
    try:
        earlier = sidecar.read_bytes() if sidecar.exists() else None
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        write_manifest(plan, manifest)
        try:
            beside.replace(plan)
        except OSError:
            if earlier is None:
                sidecar.unlink(missing_ok=True)
            else:
                sidecar.write_bytes(earlier)
            raise
    except OSError as error:
        raise SinkError(f"{plan}: cannot write the plan ({system_reason(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _check_options(library: Library, options: BuildOptions) -> None:
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise UsageError(f"optimization level: expected 0 to 5, found {options.optimization_level}")
    if options.workspace_mib is not None and options.workspace_mib < 1:
        raise UsageError(f"workspace: expected at least 1 MiB, found {options.workspace_mib}")
    if library == "tensorrt_rtx":
        for given, name, why in (
            (
                options.hardware_compatible,
                "hardware compatibility",
                "its plans are compiled on the GPU that loads them",
            ),
            (options.version_compatible, "version compatibility", "rebuild the plan after an update"),
            (options.timing_cache is not None, "a timing cache", "it times no kernels when it builds"),
        ):
            if given:
                raise UsageError(f"TensorRT-RTX does not have {name}: {why}; leave it out, or build with TensorRT")


def _check_target(plan: Path) -> None:
    """Before minutes are spent on a build whose result has no place."""
    if plan.suffix.lower() not in PLAN_SUFFIXES:
        raise UsageError(f"{plan}: expected a name that ends in {' or '.join(PLAN_SUFFIXES)}")
    if not plan.parent.is_dir():
        raise SinkError(f"{plan}: no such folder: {plan.parent}")
    if plan.is_dir():
        raise SinkError(f"{plan}: expected a file, found a folder")


def _read_model(onnx: Path) -> bytes:
    """The bytes of a model, read once: what is hashed is what is parsed."""
    if not onnx.is_file():
        raise ModelError(f"{onnx}: no such ONNX file")
    if not is_file_name(onnx.name):
        # The sidecar names it, and commands to run are made of that.
        raise UsageError(f"{str(onnx)!a}: expected a name without backslashes and control characters; rename the file")
    try:
        if onnx.stat().st_size >= _PROTOBUF_LIMIT:
            raise ModelError(
                f"{onnx}: expected an ONNX file of less than 2 GiB, found {onnx.stat().st_size >> 20} MiB; "
                "keep its weights in a file beside it"
            )
        return onnx.read_bytes()
    except OSError as error:
        raise ModelError(f"{onnx}: cannot be read ({system_reason(error)})") from error


def _has_external_data(model: bytes) -> bool:
    """Whether weights lie in files beside the ONNX file."""
    # How protobuf writes the key `location` of an entry. A false alarm costs no more than a build.
    return b"\n\x08location" in model


def _gpu_for(library: Library, onnx: Path, plan: Path) -> nvinfer.Gpu | None:
    if library == "tensorrt_rtx":
        return nvinfer.gpu()
    try:
        return nvinfer.require_gpu()
    except DeviceError as error:
        raise DeviceError(
            f"TensorRT builds for the GPU of this machine and there is none ({error}); "
            f"on the device run: {rebuild_command(onnx.name, plan.name)}"
        ) from error


def _build(
    trt: ModuleType,
    onnx: Path,
    model: bytes | None,
    shapes: tuple[ShapeRange, ...],
    options: BuildOptions,
    timings: bytes,
    on_progress: OnProgress | None,
) -> tuple[bytes, bytes | None]:
    """The plan of `model` (None: of the file `onnx` and those beside it), and the timings where they were asked for."""
    logger, messages = nvinfer.make_logger(trt)
    messages.clear()
    builder = trt.Builder(logger)
    if builder is None:
        raise ModelError(f"{onnx}: the builder does not start ({messages.reason()})")
    network = nvinfer.create_network(trt, builder)
    # The parser writes into the network and does not keep it alive: both live to the end of this function.
    parser = trt.OnnxParser(network, logger)
    if not (parser.parse_from_file(str(onnx)) if model is None else parser.parse(model)):
        raise ModelError(f"{onnx}: the ONNX parser refuses it ({_parser_errors(parser) or messages.reason()})")
    if network.num_outputs == 0:
        # Protobuf reads an empty file as an empty model.
        raise ModelError(f"{onnx}: expected an ONNX model, found one without outputs")
    config = builder.create_builder_config()
    network_inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if shapes or any(-1 in network_input.shape for network_input in network_inputs):
        profile = builder.create_optimization_profile()
        _set_shapes(onnx, profile, network_inputs, shapes)
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(f"{onnx}: the shape ranges are refused ({messages.reason()})")
    timing_cache = _configure(trt, config, options, timings)
    config.progress_monitor = _make_monitor(trt, on_progress, messages)
    plan_memory = builder.build_serialized_network(network, config)
    if messages.interrupt is not None:
        raise messages.interrupt
    if plan_memory is None:
        raise ModelError(f"{onnx}: the plan cannot be built ({messages.reason()})")
    new_timings = None if timing_cache is None else timing_cache.serialize()
    return bytes(plan_memory), None if new_timings is None else bytes(new_timings)


def _parser_errors(parser: Any) -> str:
    """What the parser says first, on one line, and at which node."""
    if not parser.num_errors:
        return ""
    parser_error = parser.get_error(0)
    node = parser_error.node_operator() or parser_error.node_name()
    return reason(Exception(f"{node}: {parser_error.desc()}" if node else parser_error.desc()))


def _configure(trt: ModuleType, config: Any, options: BuildOptions, timings: bytes) -> Any:
    """Set what was asked for; returns the timing cache in use, or None. A change here raises `_RECIPE`."""
    # TF32 has FP16's precision: a graph that says FP32 means it, and --fp16 is there for speed.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.timing_cache is None:
        return None
    timing_cache = config.create_timing_cache(timings)
    if timing_cache is None or not config.set_timing_cache(timing_cache, False):
        # Timings of another GPU or version, or a damaged file: they save time, so a fresh start is no loss.
        timing_cache = config.create_timing_cache(b"")
        config.set_timing_cache(timing_cache, False)
    return timing_cache


def _read_timing_cache(path: Path) -> bytes:
    """The timings of earlier builds, before minutes are spent on one whose timings have no place."""
    try:
        timings = path.read_bytes()
    except FileNotFoundError:
        timings = b""
    except OSError as error:
        raise UsageError(
            f"{path}: cannot read the timing cache ({system_reason(error)}); name another file, or leave it out"
        ) from error
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_bytes(b"")
        beside.unlink()
    except OSError as error:
        raise SinkError(
            f"{path}: cannot write the timing cache ({system_reason(error)}); name another file, or leave it out"
        ) from error
    return timings


def _write_timing_cache(path: Path, timings: bytes) -> list[str]:
    """Keep the timings for later builds; what went wrong, if anything did: the build itself is good."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_bytes(timings)
        beside.replace(path)
    except OSError as error:
        return [
            f"{path}: cannot write the timing cache ({system_reason(error)}); "
            "the plan is good, the next build times its kernels anew"
        ]
    else:
        return []
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _set_shapes(onnx: Path, profile: Any, network_inputs: list[Any], shapes: tuple[ShapeRange, ...]) -> None:
    """Put the range of each input's shape into the profile."""
    names = [network_input.name for network_input in network_inputs]
    ranges = {shape.name: shape for shape in shapes}
    if unknown := sorted(ranges.keys() - set(names)):
        raise UsageError(f"{onnx}: a shape range for {unknown[0]}; expected one of its inputs: {', '.join(names)}")
    for name, network_input in zip(names, network_inputs, strict=True):
        shape = tuple(network_input.shape)
        if name in ranges:
            _check_range(onnx, ranges[name], shape)
            profile.set_shape(name, ranges[name].smallest, ranges[name].typical, ranges[name].largest)
        elif -1 in shape:
            raise UsageError(
                f"{onnx}: input {name} is {shape_words(shape)}; expected its smallest, typical and largest shape"
            )


def _check_range(onnx: Path, its: ShapeRange, shape: tuple[int, ...]) -> None:
    """The library takes an impossible range without a word and fails much later."""
    for name, lengths in (("smallest", its.smallest), ("typical", its.typical), ("largest", its.largest)):
        fits = len(lengths) == len(shape) and all(
            found >= 1 and expected in (-1, found) for found, expected in zip(lengths, shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"{onnx}: input {its.name}: the {name} shape is {shape_words(lengths)}, "
                f"which does not fit {shape_words(shape)}"
            )
    if any(not low <= mid <= high for low, mid, high in zip(its.smallest, its.typical, its.largest, strict=True)):
        raise UsageError(
            f"{onnx}: input {its.name}: expected smallest <= typical <= largest, "
            f"found {shape_words(its.smallest)}, {shape_words(its.typical)}, {shape_words(its.largest)}"
        )


def _make_monitor(trt: ModuleType, on_progress: OnProgress | None, messages: nvinfer.Messages) -> Any:
    """What the builder tells its progress, and asks whether to go on: Ctrl-C ends a build of minutes too."""
    totals: dict[str, int] = {}

    def tell(phase: str, done: int) -> None:
        try:
            if on_progress is not None and messages.interrupt is None:
                on_progress(phase, done, totals[phase])
        # An exception must not unwind the builder's C++ frames; the caller raises it after them.
        except BaseException as error:
            messages.interrupt = error

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            totals[phase_name] = num_steps
            tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell(phase_name, step + 1)
            return messages.interrupt is None

        def phase_finish(self, phase_name: str) -> None:
            tell(phase_name, totals[phase_name])

    return Monitor()


def _cache_entry(manifest: Manifest, options: BuildOptions) -> Path | None:
    """Where a build of this kind is kept; None without a cache."""
    folder = nvinfer.cache_folder()
    if folder is None:
        return None
    kind = {
        "recipe": _RECIPE,
        "options": {
            # Timings make a build faster, not the plan another one.
            key: value
            for key, value in dataclasses.asdict(options).items()
            if key != "timing_cache"
        },
        **{
            key: value
            for key, value in dataclasses.asdict(manifest).items()
            # Neither what the file is called nor its card has a part in the plan.
            if key not in ("plan_sha256", "onnx", "card", "build_seconds")
        },
    }
    key = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{key}.plan"


def _cached_plan(entry: Path) -> tuple[bytes, float | None] | None:
    """The plan of an earlier build and how long that took, if it is still what was stored."""
    try:
        stored = read_manifest(entry)
        content = entry.read_bytes()
    except (ModelError, OSError):
        return None
    if stored is None or hashlib.sha256(content).hexdigest() != stored.plan_sha256:
        return None
    return content, stored.build_seconds
