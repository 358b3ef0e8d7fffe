"""Curves as a Markdown page with plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from i2i_runtime.errors import SinkError, system_reason
from measuring.curves import Curve, grouped
from measuring.record import Environment
from reporting import plots
from reporting.curve_words import SHOWN, rows_of


def write_curves(curves: Sequence[Curve], lines: Sequence[str], machine: Environment, folder: Path) -> Path:
    """Write `scaling.md`, and a plot for the curves of each kind and model where matplotlib is installed.

    Args:
        curves: what was found.
        lines: sentences to begin with.
        machine: where.
        folder: is made.

    Raises:
        SinkError: it cannot be written.
    """
    page = folder / "scaling.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = ["# How it grows", *_head(lines, machine)]
        for number, some in enumerate(grouped(curves), 1):
            parts += _section(number, some, folder)
        page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise SinkError(f"{folder}: cannot write the report ({system_reason(error)})") from error
    return page


def _head(lines: Sequence[str], machine: Environment) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    where = f"{machine.machine}, {machine.cores} cores, {machine.system}"
    yield f"`{machine.command}` on {where}; {versions}; {machine.date}"
    yield "\n".join(f"- {line}" for line in lines)
    if not plots.is_here():
        yield "Without plots: pip install 'i2i[bench]'"


def _section(number: int, curves: Sequence[Curve], folder: Path) -> Iterator[str]:
    shown = SHOWN[curves[0].kind]
    yield f"## {shown.title}: {curves[0].model}"
    if plots.is_here():
        from reporting.curve_plot import draw_curves

        plot = draw_curves(curves, folder / f"{number}-{curves[0].kind}.png")
        yield f"![{shown.title}]({plot.path.name})"
        yield plot.reading
    rows = [[shown.x, *(curve.name for curve in curves)], ["---:"] * (1 + len(curves))]
    rows += [[label, *cells] for label, cells in rows_of(curves)]
    yield f"{shown.y}: median, lowest and highest round."
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)
