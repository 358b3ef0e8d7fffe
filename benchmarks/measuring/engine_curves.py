"""Curves of one model in one engine: against pixels, batch and threads, from contestants that take turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from i2i_runtime.engines import base
from i2i_runtime.engines.base import shape_words
from measuring.curves import Curve, Point, law_of, line_of, point
from measuring.model_contestants import EngineContestant
from measuring.record import Size
from measuring.rounds import Measured

Graph = Literal["dynamic", "static"]
GRAPHS: tuple[Graph, ...] = ("dynamic", "static")


@dataclass(frozen=True, kw_only=True)
class EngineHere:
    """A library on a device of this machine."""

    name: str
    """`ONNX Runtime CPU`."""
    backend: base.Backend
    device: Literal["cpu", "cuda"]


class Place(NamedTuple):
    """What a contestant runs, and how."""

    graph: Graph
    size: Size
    batch: int = 1
    threads: int | None = None
    """None: the library's choice."""

    @property
    def file(self) -> Size | None:
        """The size that the graph was exported for; None of the one for all sizes."""
        return self.size if self.graph == "static" else None

    def __str__(self) -> str:
        parts = [f"{self.size[0]}x{self.size[1]} {self.graph}"]
        parts += [f"batch {self.batch}"] if self.batch > 1 else []
        return ", ".join(parts + ([f"threads {self.threads}"] if self.threads is not None else []))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the curves of a model are looked at. Without points there is no such curve."""

    sizes: tuple[Size, ...] = ()
    """In ascending order of their pixels, as are the others."""
    batches: tuple[int, ...] = ()
    batch_size: Size
    """(height, width) of the pictures in a batch."""
    threads: tuple[int, ...] = ()
    threads_size: Size
    """(height, width) of the picture that threads share."""

    def places(self, device: str) -> list[Place]:
        """All that are needed in an engine of a device, each once; CPU threads are of no interest to a GPU."""
        found = [Place(graph, size) for size in self.sizes for graph in GRAPHS]
        found += [Place("dynamic", self.batch_size, batch) for batch in self.batches]
        found += [Place("static", self.threads_size, threads=count) for count in self.threads if device == "cpu"]
        return list(dict.fromkeys(found))

    def static_sizes(self) -> list[Size]:
        """Those that a static graph is exported for."""
        return list(dict.fromkeys([*self.sizes, *([self.threads_size] if self.threads else [])]))


def contestants_of(plan: Plan, engine: EngineHere, file: Callable[[Place], Path]) -> dict[Place, EngineContestant]:
    """What is to take turns.

    Args:
        plan: the places.
        engine: what runs them.
        file: of a place.
    """
    return {
        place: EngineContestant(
            name=str(place),
            device=engine.device,
            path=file(place),
            size=place.size,
            batch=place.batch,
            threads=place.threads,
            backend=engine.backend,
            engine_device=engine.device,
        )
        for place in plan.places(engine.device)
    }


def curves_of(model: str, engine: EngineHere, plan: Plan, found: dict[Place, Measured]) -> list[Curve]:
    """The curves of one model in one engine; a place that failed is no point of them."""
    seconds = {
        place: [statistics.median(turn.seconds) for turn in measured.turns]
        for place, measured in found.items()
        if measured.failure is None and measured.turns
    }
    curves = []
    for graph in GRAPHS:
        places = [Place(graph, size) for size in plan.sizes if Place(graph, size) in seconds]
        latency = [point(_pixels(place.size), shape_words(place.size), seconds[place]) for place in places]
        curves.append(
            Curve(
                kind="latency", model=model, engine=engine.name, graph=graph, points=tuple(latency), law=law_of(latency)
            )
        )
        whose, memory = _memory(places, found, engine.device)
        curves.append(
            Curve(
                kind="memory",
                model=model,
                engine=engine.name,
                graph=f"{graph}{whose}",
                points=tuple(memory),
                line=line_of(memory),
            )
        )
    batches = {batch: seconds.get(Place("dynamic", plan.batch_size, batch)) for batch in plan.batches}
    throughput = [
        point(batch, str(batch), [batch / each for each in its]) for batch, its in batches.items() if its is not None
    ]
    graph_of_batches = f"dynamic, {shape_words(plan.batch_size)}"
    curves.append(
        Curve(kind="throughput", model=model, engine=engine.name, graph=graph_of_batches, points=tuple(throughput))
    )
    threads = {count: seconds.get(Place("static", plan.threads_size, threads=count)) for count in plan.threads}
    alone = threads.get(1)
    efficiency = [
        point(count, str(count), [one / (count * each) for one, each in zip(alone or (), its, strict=True)])
        for count, its in threads.items()
        if its is not None and alone is not None
    ]
    graph_of_threads = f"static, {shape_words(plan.threads_size)}"
    curves.append(
        Curve(kind="efficiency", model=model, engine=engine.name, graph=graph_of_threads, points=tuple(efficiency))
    )
    return [curve for curve in curves if curve.points]


def _memory(places: Sequence[Place], found: dict[Place, Measured], device: str) -> tuple[str, list[Point]]:
    """In MiB against megapixels: of the GPU where all ran there and can be read, else of the process.

    Returns:
        Whose memory, where there are two, and the points.
    """
    is_of_gpu = device == "cuda" and all(found[place].device_mibs for place in places)
    mibs = {place: found[place].device_mibs if is_of_gpu else found[place].host_mibs for place in places}
    points = [point(_pixels(place.size) / 1e6, shape_words(place.size), its) for place, its in mibs.items() if its]
    return "" if device != "cuda" else ", GPU memory" if is_of_gpu else ", host memory", points


def _pixels(size: Size) -> int:
    return size[0] * size[1]
