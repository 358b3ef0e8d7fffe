"""Which frames reach the model, and when the last result is shown again."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from i2i_runtime.frame import Frame
from i2i_runtime.selection import Selection, Verdict
from i2i_runtime.similar import SimilarFilter


def frame(index: int, at: float, grey: int = 100) -> Frame:
    return Frame(image=np.full((16, 16, 3), grey, np.uint8), index=index, captured_at=at, name="frame")


@given(every=st.integers(1, 10), count=st.integers(0, 60))
def test_each_nth_frame_is_taken_beginning_with_the_first(every, count):
    selection = Selection(every=every)

    taken = [i for i in range(count) if selection.verdict(frame(i, i / 30)) == Verdict.TRANSLATE]

    assert taken == list(range(0, count, every))


@given(fps=st.integers(5, 120), max_fps=st.floats(1, 200), jitter=st.lists(st.floats(0, 0.3), min_size=60, max_size=60))
def test_a_highest_rate_is_never_exceeded_by_more_than_jitter_nor_missed_by_much(fps, max_fps, jitter):
    selection = Selection(max_fps=max_fps)
    times = [(i + late) / fps for i, late in enumerate(jitter)]

    taken = [at for i, at in enumerate(times) if selection.verdict(frame(i, at)) == Verdict.TRANSLATE]

    span = times[-1] - times[0]
    assert len(taken) <= span * max_fps + 2
    # No frame comes between two of the source's: of 30 a second, 20 can be had only as 15 and 30 in turns.
    assert len(taken) >= min(span * max_fps, span * fps) / 2 - 1


def test_a_still_picture_is_shown_again_until_its_result_is_too_old():
    selection = Selection(similar=SimilarFilter(4.0, max_age=1.0))
    verdicts = []

    for index in range(45):
        verdicts.append(selection.verdict(frame(index, index / 30)))
        if verdicts[-1] == Verdict.TRANSLATE:
            selection.remember(frame(index, index / 30))

    assert [i for i, verdict in enumerate(verdicts) if verdict == Verdict.TRANSLATE] == [0, 30]


def test_a_frame_without_a_result_is_not_remembered():
    selection = Selection(similar=SimilarFilter())

    assert selection.verdict(frame(0, 0.0)) == Verdict.TRANSLATE
    assert selection.verdict(frame(1, 0.1)) == Verdict.TRANSLATE


def test_after_another_model_was_chosen_the_next_frame_is_translated():
    selection = Selection(similar=SimilarFilter())
    selection.remember(frame(0, 0.0))
    assert selection.verdict(frame(1, 0.1)) == Verdict.REUSE

    selection.forget()

    assert selection.verdict(frame(2, 0.2)) == Verdict.TRANSLATE
