"""Keeps an eye on the sources of a run: tells of those that are lost and found, and has it shown to who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from i2i_runtime.sources.base import SourceHealth, SourceState
from i2i_runtime.translation import Lane

_SHOW_EVERY = 1.0
"""Seconds between two pictures that say so: results that were under way may have covered the one before."""


@dataclass
class _Seen:
    state: SourceState = SourceState.LIVE
    reconnects: int = 0
    lost_at: float = 0.0


class SourceWatch:
    """Looks at the health of sources again and again; called by the supervising thread."""

    def __init__(self, lanes: Sequence[Lane], say: Callable[[str], None], show: Callable[[], None]) -> None:
        """Begin to watch.

        Args:
            lanes: one for each source; gets a notice while the source is not live.
            say: told in a line of each change.
            show: called now and then while there is a notice.
        """
        self._lanes = lanes
        self._say = say
        self._show = show
        self._seen = [_Seen() for _ in lanes]
        self._shown_at = float("-inf")

    def look(self, healths: Sequence[SourceHealth]) -> None:
        """Compare with what was seen last."""
        changed = False
        for lane, health, seen in zip(self._lanes, healths, self._seen, strict=True):
            is_live = health.state in (SourceState.LIVE, SourceState.ENDED)
            if seen.state == SourceState.LIVE and not is_live:
                seen.lost_at = time.monotonic()
            if health.reconnects > seen.reconnects and is_live:
                self._say(f"{health.name}: live again after {time.monotonic() - seen.lost_at:.1f} s")
            elif health.state != seen.state and not is_live:
                self._say(f"{health.name}: {health.state.value}{f' ({health.message})' if health.message else ''}")
            changed = changed or health.state != seen.state
            lane.notice = None if is_live else f"{health.name}: {health.state.value}"
            seen.state, seen.reconnects = health.state, health.reconnects
        has_notice = any(lane.notice for lane in self._lanes)
        if has_notice and (changed or time.monotonic() - self._shown_at >= _SHOW_EVERY):
            self._shown_at = time.monotonic()
            self._show()
