"""Shows how a run is going: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

_PLAIN_EVERY = 5.0
"""Seconds between two lines in a log."""


@contextmanager
def status_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Give a function that shows a line: it replaces the one before on a terminal, and is thinned out in a log."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            yield lambda line: live.update(Text(line))
        return
    last = time.monotonic()

    def plain(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_EVERY:
            last = time.monotonic()
            console.print(line, highlight=False, soft_wrap=True)

    yield plain
