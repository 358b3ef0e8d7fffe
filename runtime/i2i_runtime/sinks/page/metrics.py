"""The figures of a run as Prometheus reads them: the text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from i2i_runtime.controls import ControlState
from i2i_runtime.sources.base import SourceState
from i2i_runtime.stats import Percentiles, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class PageFigures:
    """What the page counts about itself."""

    clients: int = 0
    """Streams that are open now."""
    limit: int = 0
    """How many may be."""
    refused: int = 0
    """Streams that were refused because as many as allowed were open."""
    closed: int = 0
    """Clients that were closed because they did not read."""


_COUNTERS = {
    "captured": "Frames that the sources delivered.",
    "translated": "Frames that the model translated.",
    "reused": "Frames that were shown with the result before.",
    "skipped": "Frames that were left out on purpose.",
    "dropped": "Frames that were never translated, because a newer one took their place.",
    "failed": "Frames without a result.",
}


def as_text(status: Status, state: ControlState, page: PageFigures) -> str:
    """All figures, one a line, each name with its HELP and TYPE."""
    lines: list[str] = []

    def family(name: str, kind: str, what: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> None:
        lines.extend((f"# HELP i2i_{name} {what}", f"# TYPE i2i_{name} {kind}"))
        lines.extend(f"i2i_{name}{_labels(labels)} {_number(value)}" for labels, value in samples)

    def one(name: str, kind: str, what: str, value: float) -> None:
        family(name, kind, what, [({}, value)])

    for counter, what in _COUNTERS.items():
        one(f"frames_{counter}_total", "counter", what, getattr(status, counter))
    one("results_not_written_total", "counter", "Results that a sink was too slow for.", status.not_written)
    one("fps", "gauge", "Results per second over the last seconds.", status.fps)
    for name, what, percentiles in (
        ("translate_seconds", "Time to translate a frame, of the latest frames.", status.translate_ms),
        ("latency_seconds", "From capture until a sink has taken the result.", status.latency_ms),
    ):
        family(name, "gauge", what, _quantiles(percentiles))
    one("elapsed_seconds", "gauge", "Since the run began.", status.elapsed)
    family(
        "run_info",
        "gauge",
        "The model, what runs it, and the view; always 1.",
        [({"engine": state.engine, "provider": status.provider, "view": state.view.value}, 1)],
    )
    one("recording", "gauge", "Whether the shown view is being recorded.", state.recording is not None)
    one("frozen", "gauge", "Whether the picture is frozen.", state.frozen)

    sources = [({"source": str(number), "name": each.name}, each) for number, each in enumerate(status.sources)]
    family(
        "source_state",
        "gauge",
        "1 for the state that a source is in, 0 for the others.",
        [
            ({**labels, "state": possible.value}, each.state == possible)
            for labels, each in sources
            for possible in SourceState
        ],
    )
    family(
        "source_reconnects_total",
        "counter",
        "How often a source's lost connection was made again.",
        [(labels, each.reconnects) for labels, each in sources],
    )
    family(
        "source_decode_errors_total",
        "counter",
        "Frames that arrived damaged.",
        [(labels, each.decode_errors) for labels, each in sources],
    )
    one("page_clients", "gauge", "Viewers of the page and its streams.", page.clients)
    one("page_clients_limit", "gauge", "How many viewers there may be.", page.limit)
    one("page_clients_refused_total", "counter", "Viewers that were refused, because there were enough.", page.refused)
    one("page_clients_closed_total", "counter", "Viewers that were closed, because they did not read.", page.closed)
    return "\n".join(lines) + "\n"


def _quantiles(percentiles: Percentiles) -> list[tuple[Mapping[str, str], float]]:
    values = zip(("0.5", "0.9", "0.99"), percentiles, strict=True)
    return [({"quantile": quantile}, milliseconds / 1000) for quantile, milliseconds in values]


def _labels(labels: Mapping[str, str]) -> str:
    escaped = [f'{name}="{_escape(value)}"' for name, value in labels.items()]
    return "{" + ",".join(escaped) + "}" if escaped else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    number = float(value)
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "+Inf" if number > 0 else "-Inf"
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
