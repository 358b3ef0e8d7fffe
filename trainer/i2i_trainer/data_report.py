"""What `i2i-train check-data` prints."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from i2i_runtime.errors import SourceError
from i2i_trainer.data.check import Part, Report, check_data, count_pictures

_SHOWN = 20
"""Problems that are printed in full."""


def show_data(folder: Path, *, label_nc: int, channels: tuple[int, int], unpaired: bool) -> None:
    """Check a data folder and print what is in it.

    Raises:
        SourceError: something is wrong with it.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=count_pictures(folder))
        report = check_data(
            folder, label_nc=label_nc, channels=channels, unpaired=unpaired, on_picture=lambda: progress.advance(task)
        )
    Console().print(_table(folder, report))
    problems = report.all_problems
    for problem in problems[:_SHOWN]:
        click.echo(problem)
    if len(problems) > _SHOWN:
        click.echo(f"... and {len(problems) - _SHOWN} more")
    if problems:
        raise SourceError(
            f"{folder}: {len(problems)} problem{'s' if len(problems) > 1 else ''} found, see above; mend or delete the "
            "files"
        )


def _table(folder: Path, report: Report) -> Table:
    table = Table(title=f"{folder.resolve().name}: {report.layout}")
    table.add_column("part")
    table.add_column("pictures", justify="right")
    table.add_column("width x height")
    table.add_column("classes")
    for part in report.parts:
        table.add_row(part.name, str(part.count), _sizes(part), _classes(part))
    return table


def _sizes(part: Part) -> str:
    common = [f"{width}x{height} ({count})" for (height, width), count in part.sizes.most_common(3)]
    more = len(part.sizes) - len(common)
    return ", ".join(common) + (f" and {more} more sizes" if more else "")


def _classes(part: Part) -> str:
    return f"{len(part.ids)}, ids {min(part.ids)} to {max(part.ids)}" if part.ids else ""
