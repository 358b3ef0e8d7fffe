"""The channel between two threads: bounded, countable, and never a place to hang."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from i2i_runtime.channel import Channel

SOON = 5.0
"""Seconds after which a thread that should have ended counts as hung."""


@pytest.fixture
def in_thread():
    """Run a function on another thread; its future tells when and how it ended."""
    with ThreadPoolExecutor() as pool:
        yield lambda work, *arguments: pool.submit(work, *arguments)


def is_waiting(future: Future) -> bool:
    threading.Event().wait(0.05)
    return not future.done()


def test_items_come_out_in_the_order_they_went_in():
    channel = Channel[int](3, newest_wins=False)

    lost = [channel.put(item) for item in (1, 2, 3)]
    channel.close()

    assert lost == [0, 0, 0]
    assert list(channel) == [1, 2, 3]


def test_where_the_newest_wins_the_oldest_item_is_lost_and_counted():
    slot = Channel[int](1, newest_wins=True)

    lost = [slot.put(item) for item in (1, 2, 3)]

    assert lost == [0, 1, 1]
    assert slot.get() == 3


def test_a_full_channel_makes_its_writer_wait_for_room(in_thread):
    channel = Channel[int](1, newest_wins=False)
    channel.put(1)

    second = in_thread(channel.put, 2)
    waited = is_waiting(second)
    first = channel.get()

    assert waited
    assert first == 1
    assert second.result(SOON) == 0
    assert channel.get() == 2


def test_closing_wakes_a_waiting_writer_and_counts_its_item_as_lost(in_thread):
    channel = Channel[int](1, newest_wins=False)
    channel.put(1)
    writer = in_thread(channel.put, 2)
    waited = is_waiting(writer)

    channel.close()

    assert waited
    assert writer.result(SOON) == 1
    assert list(channel) == [1]


def test_closing_wakes_a_waiting_reader(in_thread):
    channel = Channel[int](1, newest_wins=False)
    reader = in_thread(channel.get)
    waited = is_waiting(reader)

    channel.close()

    assert waited
    assert reader.result(SOON) is None


def test_a_closed_channel_gives_what_it_holds_and_takes_nothing_more():
    channel = Channel[int](2, newest_wins=True)
    channel.put(1)

    channel.close()

    assert channel.put(2) == 1
    assert not channel.is_finished
    assert list(channel) == [1]
    assert channel.is_finished


def test_closing_can_throw_away_what_waits_and_says_how_much():
    channel = Channel[int](3, newest_wins=False)
    channel.put(1)
    channel.put(2)

    lost = channel.close(discard=True)

    assert lost == 2
    assert channel.is_finished


def test_closing_twice_loses_nothing_twice():
    channel = Channel[int](3, newest_wins=False)
    channel.put(1)

    lost = [channel.close(discard=True), channel.close(discard=True), channel.close()]

    assert lost == [1, 0, 0]


def test_a_reader_may_wait_for_a_limited_time():
    assert Channel[int](1, newest_wins=False).get(timeout=0.01) is None


class ChannelMachine(RuleBasedStateMachine):
    """Puts, gets and closes in any order; what went in is always what came out, was lost, or still waits."""

    @initialize(length=st.integers(1, 4), newest_wins=st.booleans())
    def open(self, length, newest_wins):
        self.channel = Channel[int](length, newest_wins=newest_wins)
        self.length, self.newest_wins, self.is_closed = length, newest_wins, False
        self.put_count = 0
        self.waiting: list[int] = []

    def would_wait(self) -> bool:
        return len(self.waiting) == self.length and not self.newest_wins and not self.is_closed

    @precondition(lambda self: not self.would_wait())
    @rule()
    def put(self):
        lost = self.channel.put(self.put_count)

        expected = [*self.waiting, self.put_count][-self.length :]
        assert lost == (self.is_closed or len(self.waiting) == self.length)
        self.waiting = self.waiting if self.is_closed else expected
        self.put_count += 1

    @rule()
    def get(self):
        assert self.channel.get(timeout=0) == next(iter(self.waiting), None)
        del self.waiting[:1]

    @rule(discard=st.booleans())
    def close(self, discard):
        assert self.channel.close(discard=discard) == (len(self.waiting) if discard else 0)
        self.is_closed = True
        self.waiting = [] if discard else self.waiting

    @invariant()
    def finished_means_closed_and_empty(self):
        assert self.channel.is_finished == (self.is_closed and not self.waiting)


TestChannelMachine = ChannelMachine.TestCase
TestChannelMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.booleans(), st.integers(1, 3), st.integers(0, 60))
def test_threads_lose_nothing_uncounted(length, newest_wins, writers, items):
    channel = Channel[int](length, newest_wins=newest_wins)

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(lambda: list(channel))
        puts = [pool.submit(lambda: sum(channel.put(item) for item in range(items))) for _ in range(writers)]
        lost = sum(future.result(SOON) for future in puts)
        channel.close()
        got = reader.result(SOON)

    assert len(got) + lost == writers * items
