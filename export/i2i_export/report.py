"""What an export tells the user."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from i2i_export.gate import Gate
from i2i_export.staging import parts
from i2i_runtime.card import Card, ParityRecord


def show_parity(records: Sequence[ParityRecord], card: Card, against: str = "PyTorch") -> None:
    """Print how engines compare with what is right, and what was expected of each."""
    assert card.export is not None
    unit = "grey levels" if card.export.graph_io == "uint8" else "[-1, 1]"
    click.echo(f"against {against}, {records[0].pictures} pictures, in {unit}:")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("engine", no_wrap=True)
    for column in ("max abs", "mean abs", "PSNR dB", "worst", "SSIM", "expected"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column()
    for record in records:
        gate = Gate(max_abs=record.tolerance, min_psnr_db=record.min_psnr_db)
        table.add_row(
            record.engine,
            f"{record.max_abs:.1e}",
            f"{record.mean_abs:.1e}",
            f"{record.psnr_db:.1f}",
            f"{record.worst_psnr_db:.1f}",
            "-" if record.ssim is None else f"{record.ssim:.4f}",
            str(gate),
            "passes" if gate.passes(record) else "FAILS",
        )
    Console().print(table)


def say_written(path: Path, began: float) -> None:
    """Name the file, its size, and the seconds since `began` (`time.monotonic()`)."""
    size = sum(part.stat().st_size for part in parts(path))
    click.echo(f"{path}: {size / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
