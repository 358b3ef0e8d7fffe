"""Says what changed between two records of latency.py beyond noise."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from i2i_runtime import command
from measuring.comparison import Comparison, RowComparison, compare
from measuring.output import write_json
from measuring.record import read_record

_STYLES = {"slower": "red", "fails now": "red", "faster": "green", "works now": "green", "cannot tell": "yellow"}
_PLAIN_WIDTH = 180
"""Columns where nobody looks at a terminal."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("before", type=click.Path(path_type=Path), metavar="BEFORE.json")
@click.argument("after", type=click.Path(path_type=Path), metavar="AFTER.json")
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Percent: a smaller change of a time is never called one.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the same here.")
@click.option("--fail-on-worse", is_flag=True, help="Exit code 4 if a row became worse or is gone: for CI.")
@command.debug_option
def main(before: Path, after: Path, threshold: float, json_file: Path | None, fail_on_worse: bool, debug: bool) -> int:
    """Say what changed between two runs of latency.py, beyond noise.

    \b
      compare.py monday.json friday.json
      compare.py main.json branch.json --fail-on-worse

    Each row is slower, faster, unchanged, or the runs cannot tell: they are too noisy, or have too few starts. Times
    are taken relative to a yardstick that ran in the same rounds, so that a machine that is slower today is not
    mistaken for a slower model. Worse is a row that is slower, fails, needs more memory or is further from PyTorch.
    """  # noqa: D301
    comparison = compare(read_record(before), read_record(after), threshold)
    # A file or a pipe has no width of its own, and a cut table is worth nothing.
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False, markup=False)
    show(comparison, console)
    if json_file is not None:
        _write(comparison, json_file)
    return 4 if fail_on_worse and comparison.is_worse else 0


def show(comparison: Comparison, console: Console) -> None:
    """Print what is unlike in the two runs, a table, and the verdict on one line."""
    for caution in comparison.cautions:
        console.print(caution, soft_wrap=True)
    if comparison.machine is not None:
        console.print(
            f"the machine itself, by its yardstick: time {comparison.machine}; taken out below", soft_wrap=True
        )
    table = Table()
    table.add_column("row")
    for column in ("before, ms", "after, ms", "change (99 % interval)", "noise"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    table.add_column("besides")
    for row in comparison.rows:
        table.add_row(*_cells(row))
    for name, verdict in [
        *((name, "only before") for name in comparison.only_before),
        *((name, "only after") for name in comparison.only_after),
    ]:
        table.add_row(name, "", "", "", "", verdict, "")
    console.print(table)
    console.print(comparison.verdict, soft_wrap=True)


def _cells(row: RowComparison) -> list[str | Text]:
    noise = row.change.noise if row.change is not None else None
    return [
        row.name,
        _milliseconds(row.before_s),
        _milliseconds(row.after_s),
        str(row.change) if row.change is not None else "",
        f"±{noise:.1f} %" if noise is not None else "",
        Text(row.verdict, style=_STYLES.get(row.verdict, "")),
        "\n".join(finding.text for finding in row.findings),
    ]


def _milliseconds(seconds: float | None) -> str:
    return f"{seconds * 1e3:.2f}" if seconds is not None else ""


def _write(comparison: Comparison, path: Path) -> None:
    rows = [{**asdict(row), "is_worse": row.is_worse} for row in comparison.rows]
    found = {"verdict": comparison.verdict, "is_worse": comparison.is_worse, **asdict(comparison), "rows": rows}
    write_json(path, found)


if __name__ == "__main__":
    command.run(main)
