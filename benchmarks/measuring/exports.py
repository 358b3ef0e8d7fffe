"""What a benchmark has exported, in another process: PyTorch would stay in the benchmark's own."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from i2i_runtime.card import Card, TrainingRecord
from i2i_runtime.closing import Closing
from i2i_runtime.engines.manifest import read_manifest
from i2i_runtime.errors import DeviceError
from measuring.record import Size

if TYPE_CHECKING:
    from i2i_export.targets import Target

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class ExportTimes(NamedTuple):
    """What an export takes, in seconds, without importing what it needs."""

    parameters: int
    """Of the generator."""
    export_s: float
    """From the generator in PyTorch to an ONNX graph."""
    proof_s: float
    """Running it beside PyTorch on four pictures, and writing it."""
    build_s: float | None
    """From the graph to a plan of TensorRT-RTX; None of an ONNX file."""


class Exporter(Closing):
    """The other process."""

    def __init__(self, folder: Path) -> None:
        """Start it.

        Args:
            folder: for files that it needs.
        """
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._folder = folder
        self._ready: set[tuple[Path, Target]] = set()

    def draw_checkpoint(self, name: str, ngf: int, size: Size) -> Path:
        """Write a checkpoint of initial weights; see `untrained.untrained_card`."""
        return self._call(_draw_checkpoint, self._folder / f"{name}_ngf{ngf}.pt", name, ngf, size)

    def card_of(self, checkpoint: Path) -> Card:
        """The card of a checkpoint's generator.

        Raises:
            ModelError: no checkpoint, or one of a generator that is not known.
        """
        return self._call(_card_of, checkpoint)

    def export_graph(self, checkpoint: Path, output: Path, size: Size, max_batch: int | None = None) -> Path:
        """Write the float32 graph of a checkpoint's generator, without a proof.

        Args:
            checkpoint: the generator's.
            output: the `.onnx` file.
            size: of a static graph; what a dynamic one is traced at.
            max_batch: of a dynamic graph; None makes a static one.
        """
        return self._call(_export_graph, checkpoint, output, size, max_batch)

    def time_export(self, checkpoint: Path, ngf: int, size: Size, target: Target) -> ExportTimes:
        """Export a checkpoint's generator in another width, with initial weights, and prove it.

        Args:
            checkpoint: says which generator.
            ngf: its width.
            size: of the graph and of the drawn pictures for the proof.
            target: `onnx`, or `tensorrt-rtx` to build a plan, too.

        Raises:
            I2IError: it cannot be exported in that width, or not built here.
        """
        output = self._folder / ("timed.onnx" if target == "onnx" else "timed.plan")
        if (checkpoint, target) not in self._ready:
            # The first export imports for seconds what exports need, and the first of a kind is slower than the next.
            self._call(_time_export, checkpoint, ngf, size, output, target)
            self._ready.add((checkpoint, target))
        return self._call(_time_export, checkpoint, ngf, size, output, target)

    def close(self) -> None:
        """See `Closing`."""
        self._pool.shutdown(cancel_futures=True)

    def _call(
        self,
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        try:
            return self._pool.submit(function, *arguments, **named).result()
        except BrokenProcessPool as error:
            raise DeviceError("the process that exports died; the system may have run out of memory") from error


def _draw_checkpoint(path: Path, name: str, ngf: int, size: Size) -> Path:
    from measuring.untrained import save_untrained_checkpoint, untrained_card

    return save_untrained_checkpoint(path, untrained_card(name, ngf, size))


def _card_of(checkpoint: Path) -> Card:
    from i2i_trainer.trained import load_trained

    return load_trained(checkpoint).card


def _export_graph(checkpoint: Path, output: Path, size: Size, max_batch: int | None) -> Path:
    import onnx

    from i2i_export.delivery import prepare
    from i2i_export.graph import build_graph
    from i2i_export.request import Request
    from i2i_trainer.trained import load_trained

    trained = load_trained(checkpoint)
    is_dynamic = max_batch is not None
    request = Request(
        output=output, target="onnx", graph_io="float", size=size, is_dynamic=is_dynamic, max_batch=max_batch or 1
    )
    with _quiet():
        card, _ = prepare(trained, request)
        onnx.save(build_graph(trained.generator, card), output)
    return output


def _time_export(checkpoint: Path, ngf: int, size: Size, output: Path, target: Target) -> ExportTimes:
    from i2i_export.delivery import deliver_graph, prepare
    from i2i_export.graph import build_graph
    from i2i_export.request import Request
    from i2i_trainer.trained import load_trained
    from measuring.untrained import save_untrained_checkpoint

    card = load_trained(checkpoint).card
    card = replace(
        card,
        generator=replace(card.generator, arguments={**card.generator.arguments, "ngf": ngf}),
        training=TrainingRecord(data="none", size=size, batch=1, steps=0, epochs=0.0, seed=0),
    )
    trained = load_trained(save_untrained_checkpoint(output.with_suffix(".pt"), card))
    # Of initial weights only the time is of interest.
    request = Request(
        output=output, target=target, graph_io="float", size=size, tolerance=2.0, min_psnr=1.0, use_cache=False
    )
    with _quiet():
        began = time.perf_counter()
        card, examples = prepare(trained, request)
        graph = build_graph(trained.generator, card)
        exported = time.perf_counter()
        deliver_graph(graph, trained, card, examples, request)
        rest_s = time.perf_counter() - exported
    manifest = read_manifest(output) if target == "tensorrt-rtx" else None
    build_s = manifest.build_seconds if manifest is not None else None
    parameters = sum(weight.numel() for weight in trained.generator.parameters())
    return ExportTimes(parameters, exported - began, rest_s - (build_s or 0.0), build_s)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What `i2i-export` tells its user."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
