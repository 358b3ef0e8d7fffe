"""Curves as a Markdown page with plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from measuring.curves import Curve, grouped
from measuring.record import Environment
from reporting import plots
from reporting.curve_words import SHOWN, rows_of
from reporting.folder import ReportKind
from reporting.report import markdown_table, shareable

_KIND = ReportKind(script="scaling.py", page="scaling.md", pictures=r"[0-9]+-[a-z]+\.png")


def check_curves(folder: Path) -> None:
    """See that the page can be written there; see `ReportKind.check`."""
    _KIND.check(folder)


def write_curves(curves: Sequence[Curve], lines: Sequence[str], machine: Environment, folder: Path) -> Path:
    """Write `scaling.md`, and a plot for the curves of each kind and model where matplotlib is installed.

    Args:
        curves: what was found.
        lines: sentences to begin with.
        machine: where.
        folder: see `ReportKind.write`.
    """

    def page(staged: Path) -> str:
        parts = ["# How it grows", *_head(lines, machine)]
        for number, some in enumerate(grouped(curves), 1):
            parts += _section(number, some, staged)
        return "\n\n".join([*parts, _KIND.mark]) + "\n"

    return _KIND.write(folder, page)


def _head(lines: Sequence[str], machine: Environment) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    where = f"{machine.machine}, {machine.cores} cores, {machine.system}"
    yield f"`{machine.command}` on {where}; {versions}; {machine.date}"
    yield "\n".join(f"- {shareable(line)}" for line in lines)
    if not plots.is_here():
        yield "Without plots: pip install 'i2i[bench]'"


def _section(number: int, curves: Sequence[Curve], folder: Path) -> Iterator[str]:
    shown = SHOWN[curves[0].kind]
    yield f"## {shown.title}: {shareable(curves[0].model)}"
    if plots.is_here():
        from reporting.curve_plot import draw_curves

        plot = draw_curves(curves, folder / f"{number}-{curves[0].kind}.png")
        yield f"![{shown.title}]({plot.path.name})"
        yield plot.reading
    yield f"{shown.y}: median, lowest and highest round."
    yield markdown_table(
        [shown.x, *(curve.name for curve in curves)], [[label, *cells] for label, cells in rows_of(curves)]
    )
