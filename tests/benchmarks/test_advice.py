"""What a person is told to do about the figures: measuring/advice.py."""

from __future__ import annotations

from dataclasses import replace

from records import ENVIRONMENT, TORCH, record

from measuring.advice import advise
from measuring.record import Quality, Readings

RECORD = record(sizes=((256, 256),), batches=(1, 4))
ROWS = RECORD.rows


def said(rows=ROWS, environment=ENVIRONMENT) -> str:
    return "\n".join(advise(rows, environment))


def only(*names: str, batch: int = 1):
    return [row for row in ROWS if row.name in names and row.batch == batch]


def with_psnr(row, psnr_db: float):
    return replace(row, quality=Quality(against=TORCH, pictures=2, psnr_db=psnr_db, ssim=None))


def test_the_fastest_way_that_gives_the_right_answer_is_recommended():
    first = advise(ROWS, ENVIRONMENT)[0]

    assert first.startswith("At 256x256: use OpenVINO CPU bf16, ")
    assert f"times as fast as {TORCH}" in first
    assert f"51 dB from {TORCH}" in first


def test_it_says_how_to_make_it():
    assert "Make it: i2i-export zebra.pt -o zebra-bf16.onnx" in advise(ROWS, ENVIRONMENT)[0]


def test_what_is_faster_and_wrong_is_named_with_how_wrong():
    assert "OpenVINO CPU int8 is 1.0" in said()
    assert f"but 38 dB from {TORCH} on the picture that fares worst: below the 40 dB" in said()


def test_what_is_slower_and_wrong_is_not_worth_a_word():
    assert "ONNX Runtime CPU int8" not in said()


def test_two_that_cannot_be_told_apart_are_said_to_be_equal():
    (row,) = only("OpenVINO CPU fp32")

    assert "its twin cannot be told from it: within its noise." in said([row, replace(row, name="its twin")])


def test_what_is_clearly_slower_is_not_called_equal():
    assert "cannot be told" not in said(only("OpenVINO CPU bf16", "OpenVINO CPU fp32"))


def test_batches_that_gain_nothing_are_said_to():
    rows = [*only("OpenVINO CPU bf16"), *only("OpenVINO CPU bf16", batch=4)]

    assert "Batches of 4 gain nothing there (1.0" in said(rows)


def test_a_batch_that_gains_is_said_by_how_much():
    (single,), (four,) = only("OpenVINO CPU bf16"), only("OpenVINO CPU bf16", batch=4)
    quicker = replace(
        four, turns=tuple(replace(turn, seconds=tuple(s / 2 for s in turn.seconds)) for turn in four.turns)
    )

    assert "Batches of 4 give 2.0" in said([single, quicker])


def test_what_limits_the_best_is_said():
    (best,) = only("OpenVINO CPU bf16")
    assert best.roof is not None

    assert f"What limits OpenVINO CPU bf16: {best.roof.limit}." in said([best])


def test_hardware_that_slowed_itself_down_is_named():
    assert "The hardware slowed itself down (thermal) while OpenVINO CPU int8" in said()


def test_a_power_limit_is_no_fault():
    limited = [replace(row, readings=Readings(throttled=("power cap",))) for row in only("OpenVINO CPU bf16")]

    assert "slowed itself down" not in said(limited)
    assert "It ran at its power limit" in said(limited)


def test_a_busy_machine_is_said_to_be_one():
    busy = [replace(row, readings=Readings(busy_elsewhere=0.3, stolen=0.1)) for row in only("OpenVINO CPU bf16")]

    assert "Others had 40% of the CPU time meanwhile" in said(busy)
    assert "Others had" not in said(only("OpenVINO CPU bf16"))


def test_what_never_became_stable_is_named():
    assert "Never became stable while warming up: torch.compile CPU fp32" in said()


def test_where_no_way_is_right_none_is_recommended():
    wrong = [with_psnr(row, 20.0) for row in only("OpenVINO CPU bf16", "OpenVINO CPU fp32")]

    assert ": use " not in said(wrong)


def test_where_all_failed_there_is_no_advice_on_speed():
    failed = [row for row in ROWS if row.failure is not None]

    assert failed
    assert ": use " not in said(failed)


def test_answers_that_were_not_compared_are_not_called_right():
    (row,) = only("OpenVINO CPU int8")

    first = advise([replace(row, quality=None)], ENVIRONMENT)[0]

    assert first.startswith("At 256x256: use OpenVINO CPU int8, the fastest here; its answers were not compared with")
