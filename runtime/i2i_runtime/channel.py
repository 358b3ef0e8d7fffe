"""A bounded queue between two threads that says what happens when it is full and always lets both sides end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Carries items from one thread to another.

    When it is full, `put` waits, or, with `newest_wins`, throws the oldest item away: a channel of length one is then
    the slot that always holds the newest frame.

    >>> slot = Channel[int](1, newest_wins=True)
    >>> slot.put(1), slot.put(2)
    (0, 1)
    >>> slot.close()
    >>> list(slot)
    [2]
    """

    def __init__(self, length: int, *, newest_wins: bool, changed: threading.Condition | None = None) -> None:
        """An empty channel.

        Args:
            length: how many items may wait.
            newest_wins: throw the oldest item away instead of waiting when it is full.
            changed: shared by several channels that one thread reads with `first_of_each`.
        """
        self._length = length
        self._newest_wins = newest_wins
        self._items: deque[T] = deque()
        self._changed = changed or threading.Condition()
        self._is_closed = False

    def put(self, item: T) -> int:
        """Add an item; returns how many were lost: the oldest one, or this one if the channel is closed."""
        with self._changed:
            while len(self._items) >= self._length and not self._newest_wins and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return 1
            lost = 0
            if len(self._items) >= self._length:
                self._items.popleft()
                lost = 1
            self._items.append(item)
            self._changed.notify_all()
            return lost

    def close(self, *, discard: bool = False) -> int:
        """No more items; wakes both sides. Returns how many waiting items were thrown away, if `discard`."""
        with self._changed:
            self._is_closed = True
            lost = len(self._items) if discard else 0
            if discard:
                self._items.clear()
            self._changed.notify_all()
            return lost

    def get(self, timeout: float | None = None) -> T | None:
        """The oldest item, or None when the channel is closed and empty or `timeout` seconds have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._is_closed, timeout)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    @property
    def is_finished(self) -> bool:
        """Closed, and nothing left to get."""
        with self._changed:
            return self._is_closed and not self._items

    def __iter__(self) -> Iterator[T]:
        """The items until the channel is closed and empty."""
        while (item := self.get()) is not None:
            yield item


def first_of_each(channels: Sequence[Channel[T]], changed: threading.Condition) -> list[tuple[int, T]]:
    """Wait until any channel has an item, then take the oldest of each that has one; it never waits for the slowest.

    Args:
        channels: all made with the same `changed`.
        changed: what they were made with.

    Returns:
        (number of the channel, item); empty when all channels are closed and empty.
    """
    with changed:
        changed.wait_for(
            lambda: any(channel._items for channel in channels) or all(channel._is_closed for channel in channels)
        )
        ready = [(number, channel._items.popleft()) for number, channel in enumerate(channels) if channel._items]
        changed.notify_all()
        return ready
