"""The beat of sources that make their own frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction


def ticks(rate: Fraction, stopped: threading.Event) -> Iterator[Fraction]:
    """Wait for each next frame's time, and say it in seconds since the first.

    All are multiples of 1/`rate` from the start, so the pace does not drift. Where the taker is late, the times that
    passed meanwhile are left out, as a camera would: it is not given a burst.

    Args:
        rate: frames per second.
        stopped: ends the wait and the ticks when it is set, from any thread.
    """
    start = time.monotonic()
    tick = 0
    while not stopped.is_set():
        yield tick / rate
        tick = max(tick + 1, int((time.monotonic() - start) * float(rate)))
        stopped.wait(max(0.0, start + float(tick / rate) - time.monotonic()))
