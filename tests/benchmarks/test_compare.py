"""What changed between two runs beyond noise."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measuring.comparison import Comparison, RowComparison, compare
from measuring.record import Environment, Model, Quality, Readings, Record, Row, Turn

COMPARE = Path(__file__).parents[2] / "benchmarks" / "compare.py"


class Noise(NamedTuple):
    """Of a row and of its yardstick, as standard deviations of logarithms."""

    starts: float
    """Luck of a process."""
    rounds: float
    """Heavy-tailed: Student's t with 4 degrees of freedom."""
    yardstick_starts: float
    spikes: float
    """Share of rounds that something else disturbs, by 15 % in the mean."""


QUIET = Noise(starts=0.003, rounds=0.005, yardstick_starts=0.003, spikes=0.02)
LOW = Noise(starts=0.005, rounds=0.01, yardstick_starts=0.005, spikes=0.05)
MODERATE = Noise(starts=0.01, rounds=0.02, yardstick_starts=0.005, spikes=0.05)
HIGH = Noise(starts=0.015, rounds=0.04, yardstick_starts=0.01, spikes=0.1)


class Design(NamedTuple):
    """How a run was measured."""

    starts: int
    rounds_each: int
    yardstick_turns: int = 1
    """In each round."""


RECOMMENDED = Design(starts=6, rounds_each=6, yardstick_turns=3)


def record(
    seed: int,
    noise: Noise = QUIET,
    design: Design = RECOMMENDED,
    slower: Sequence[float] = (1.0,),
    drift: float = 0.1,
    **changes: Any,
) -> Record:
    """A run on a machine whose speed is another one each day, and wanders meanwhile.

    Args:
        seed: of the day.
        noise: of all rows.
        design: how it was measured.
        slower: for each row, how much longer it takes than 10 ms.
        drift: from one day to another: a speed anywhere between - `drift` / 2 and + `drift` / 2.
        changes: other fields.
    """
    random = np.random.default_rng(seed)
    count = design.starts * design.rounds_each
    machine = random.uniform(-drift / 2, drift / 2) + np.cumsum(random.normal(0, 0.05 / math.sqrt(count), count))

    def turns(seconds: float, luck: float, turns_each: int) -> tuple[Turn, ...]:
        found = []
        for start in range(design.starts):
            lucky = random.normal(0, luck)
            for number in range(start * design.rounds_each, (start + 1) * design.rounds_each):
                for _ in range(turns_each):
                    late = random.exponential(0.15) if random.random() < noise.spikes else 0.0
                    each = noise.rounds * random.standard_t(4) / math.sqrt(2) + late
                    time = seconds * math.exp(machine[number] + lucky + each)
                    found.append(Turn(start=start, round=number, seconds=(time,)))
        return tuple(found)

    rows = tuple(row(f"way {index}", turns(0.01 * factor, noise.starts, 1)) for index, factor in enumerate(slower))
    yardstick = turns(0.02, noise.yardstick_starts, design.yardstick_turns)
    return replace(EMPTY, rows=rows, yardstick=yardstick, **changes)


def row(name: str, turns: tuple[Turn, ...], **fields: Any) -> Row:
    known: dict[str, Any] = {
        "name": name,
        "backend": name,
        "device": "cpu",
        "precision": "fp32",
        "size": (256, 256),
        "batch": 1,
        "threads": None,
        "graph": "static, float",
        "how": None,
        "turns": turns,
    }
    return Row(**(known | fields))


ENVIRONMENT = Environment(
    command="latency.py",
    date="2026-01-01T00:00:00",
    commit=None,
    machine="a machine",
    cpu="a processor",
    cores=4,
    threads_per_core=None,
    instructions=(),
    memory_mib=8192.0,
    system="Linux",
    governor=None,
    power_mode=None,
    is_virtual=None,
    gpus=(),
    python="3.11.0",
    versions={"onnxruntime": "1.22.0"},
    load_before=0.0,
    settings={},
)
EMPTY = Record(
    environment=ENVIRONMENT,
    model=Model(name="zebra", file="zebra.onnx", sha256="a" * 64, architecture="unknown", is_trained=True),
    workloads=(),
    peaks=(),
    rows=(),
    yardstick=(),
    yardstick_name="GEMM fp32, NumPy CPU",
    left_out=(),
    advice=(),
)


def only_row(comparison: Comparison) -> RowComparison:
    (found,) = comparison.rows
    return found


def with_row(made: Record, **changes: Any) -> Record:
    """With its first row changed."""
    first, *others = made.rows
    return replace(made, rows=(replace(first, **changes), *others))


def in_environment(made: Record, **changes: Any) -> Record:
    return replace(made, environment=replace(made.environment, **changes))


# how often it is right


@functools.cache
def verdicts(slower: float, noise: Noise, design: Design, days: int = 50, rows: int = 4) -> Counter[str]:
    """Percent of each verdict on rows that all became so much slower from one day to the next."""
    found: Counter[str] = Counter()
    for seed in range(days):
        before = record(2 * seed, noise, design, [1.0] * rows)
        after = record(2 * seed + 1, noise, design, [slower] * rows)
        found.update(pair.verdict for pair in compare(before, after).rows)
    return Counter({verdict: round(100 * count / (days * rows)) for verdict, count in found.items()})


@pytest.mark.parametrize("noise", [QUIET, LOW, MODERATE, HIGH])
@pytest.mark.parametrize("design", [Design(3, 3), Design(4, 4), RECOMMENDED])
def test_two_runs_of_the_same_are_not_called_a_change(noise: Noise, design: Design) -> None:
    found = verdicts(1.0, noise, design)
    assert found["slower"] + found["faster"] <= 1


@pytest.mark.parametrize(("noise", "unchanged"), [(QUIET, 100), (LOW, 97), (MODERATE, 95)])
def test_two_runs_of_the_same_are_called_unchanged(noise: Noise, unchanged: int) -> None:
    assert verdicts(1.0, noise, RECOMMENDED)["no change"] >= unchanged


@pytest.mark.parametrize(("noise", "power"), [(QUIET, 100), (LOW, 98), (MODERATE, 90)])
def test_a_slowdown_of_5_percent_is_found(noise: Noise, power: int) -> None:
    assert verdicts(1.05, noise, RECOMMENDED)["slower"] >= power


@pytest.mark.parametrize("noise", [QUIET, LOW, MODERATE, HIGH])
@pytest.mark.parametrize("design", [Design(3, 3), RECOMMENDED])
def test_a_slowdown_of_5_percent_that_is_missed_is_not_called_unchanged(noise: Noise, design: Design) -> None:
    assert verdicts(1.05, noise, design)["no change"] <= 5


def test_runs_that_are_too_noisy_or_too_few_say_that_they_cannot_tell() -> None:
    assert verdicts(1.0, HIGH, Design(3, 3))["cannot tell"] > 90


def test_a_gain_is_found_as_well_as_a_loss() -> None:
    assert verdicts(1 / 1.05, LOW, RECOMMENDED)["faster"] >= 98


def test_without_the_yardstick_the_machines_own_drift_would_be_taken_for_a_change() -> None:
    # What the yardstick is for: the same runs, and rows that are told to be of a device it did not run on.
    wrong = 0
    for seed in range(20):
        before, after = (with_row(record(2 * seed + day), device="cuda") for day in (0, 1))
        wrong += only_row(compare(before, after)).verdict in ("slower", "faster")
    assert wrong > 5


# what counts as a change


def test_a_change_below_the_threshold_is_none_however_sure_it_is() -> None:
    before, after = record(1, slower=[1.0]), record(2, slower=[1.04])
    assert only_row(compare(before, after)).verdict == "slower"
    found = only_row(compare(before, after, threshold=6.0))
    assert found.verdict == "no change"
    assert found.change is not None
    assert found.change.low is not None
    assert found.change.low > 0


@given(st.integers(0, 10**6), st.floats(0.5, 2))
def test_the_other_way_round_slower_is_faster(seed: int, slower: float) -> None:
    before, after = record(seed, LOW, Design(3, 3)), record(seed + 1, LOW, Design(3, 3), [slower])
    there, back = only_row(compare(before, after)), only_row(compare(after, before))
    assert there.change is not None
    assert back.change is not None
    assert (1 + there.change.percent / 100) * (1 + back.change.percent / 100) == pytest.approx(1)
    assert {"slower": "faster", "faster": "slower"}.get(there.verdict, there.verdict) == back.verdict


@given(st.integers(0, 10**6))
def test_a_run_compared_with_itself_is_unchanged_by_0(seed: int) -> None:
    made = record(seed, QUIET, Design(4, 4))
    found = only_row(compare(made, made))
    # A run that is noisy by chance may not tell.
    assert found.verdict in ("no change", "cannot tell")
    assert found.change is not None
    assert found.change.percent == 0


def test_the_interval_holds_the_change_and_its_width_is_the_noise() -> None:
    found = only_row(compare(record(1), record(2, slower=[1.1]))).change
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.noise is not None
    assert found.low < 10 < found.high
    assert (1 + found.high / 100) / (1 + found.percent / 100) == pytest.approx(1 + found.noise / 100)
    assert (1 + found.percent / 100) / (1 + found.low / 100) == pytest.approx(1 + found.noise / 100)


def test_a_single_start_tells_no_noise_so_it_cannot_tell() -> None:
    comparison = compare(record(1), record(2, design=Design(1, 12), slower=[1.5]))
    found = only_row(comparison)
    assert found.verdict == "cannot tell"
    assert found.change is not None
    assert found.change.noise is None
    assert "of a single start, unknown" in comparison.verdict


def test_a_machine_that_changed_a_lot_makes_a_change_less_sure() -> None:
    calm, stormy = (compare(record(1, drift=0), record(2, drift=drift)) for drift in (0, 0.4))
    assert stormy.machine is not None
    assert calm.machine is not None
    assert abs(stormy.machine.percent) > abs(calm.machine.percent)
    noises = [only_row(one).change for one in (calm, stormy)]
    assert all(noise is not None and noise.noise is not None for noise in noises)
    assert noises[1].noise > noises[0].noise  # type: ignore[union-attr, operator]


# what else changed


def test_a_row_that_fails_now_is_worse_and_says_why() -> None:
    before = record(1)
    after = with_row(before, failure="out of memory", turns=())
    comparison = compare(before, after)
    assert only_row(comparison).verdict == "fails now"
    assert [finding.text for finding in only_row(comparison).findings] == ["out of memory"]
    assert comparison.is_worse
    assert comparison.verdict == "1 row failing now: way 0"


def test_a_row_that_works_now_is_not_worse() -> None:
    after = record(1)
    comparison = compare(with_row(after, failure="no such library", turns=()), after)
    assert only_row(comparison).verdict == "works now"
    assert not comparison.is_worse


def test_rows_that_only_one_record_has_are_named() -> None:
    before, after = record(1, slower=[1, 1]), record(2)
    comparison = compare(before, replace(after, rows=(row("new", after.rows[0].turns),)))
    assert comparison.rows == ()
    assert comparison.only_before == ("way 0", "way 1")
    assert comparison.only_after == ("new",)
    assert comparison.verdict == "2 rows gone: way 0, way 1; nothing to compare: no row that runs in both"


def test_a_row_that_is_gone_is_worse_and_a_new_one_is_not() -> None:
    both, one = record(1, slower=[1, 1]), record(1, slower=[1])
    assert compare(both, replace(both, rows=both.rows[:1])).is_worse
    assert not compare(replace(both, rows=both.rows[:1]), both).is_worse
    assert not compare(one, one).is_worse


def test_what_nobody_sees_is_no_loss_of_quality() -> None:
    quality = Quality(against="PyTorch fp32", pictures=4, psnr_db=999.0, ssim=None)
    made = record(1)
    for now, is_worse in ((138.0, False), (60.0, False), (59.0, True)):
        other = with_row(made, quality=replace(quality, psnr_db=now))
        assert compare(with_row(made, quality=quality), other).is_worse == is_worse


@pytest.mark.parametrize(
    ("now", "expected", "is_worse"),
    [(39.6, [], False), (39.4, ["PSNR 40.0 dB → 39.4 dB"], True), (999.0, ["PSNR 40.0 dB → identical"], False)],
)
def test_quality_counts_from_half_a_decibel_on(now: float, expected: list[str], is_worse: bool) -> None:
    quality = Quality(against="PyTorch fp32", pictures=4, psnr_db=40.0, ssim=None)
    made = record(1)
    comparison = compare(with_row(made, quality=quality), with_row(made, quality=replace(quality, psnr_db=now)))
    assert [finding.text for finding in only_row(comparison).findings] == expected
    assert comparison.is_worse == is_worse


def test_qualities_against_different_references_are_not_compared() -> None:
    quality = Quality(against="PyTorch fp32", pictures=4, psnr_db=40.0, ssim=None)
    other = replace(quality, against="ONNX Runtime fp32", psnr_db=20.0)
    made = record(1)
    (finding,) = only_row(compare(with_row(made, quality=quality), with_row(made, quality=other))).findings
    assert finding.what == "caution"


@pytest.mark.parametrize(("before", "after"), [(100.0, 130.0), (1000.0, 1090.0)])
def test_a_little_more_memory_is_no_change(before: float, after: float) -> None:
    made = record(1)
    assert only_row(compare(with_row(made, host_mib=before), with_row(made, host_mib=after))).findings == ()


def test_much_more_memory_is_worse() -> None:
    made = record(1)
    comparison = compare(with_row(made, device_mib=400.0), with_row(made, device_mib=500.0))
    assert [finding.text for finding in only_row(comparison).findings] == ["device memory 400 → 500 MiB"]
    assert comparison.is_worse


def test_a_longer_load_is_told_without_the_first_start_which_reads_from_the_disk() -> None:
    made = record(1)
    before = with_row(made, load_s=(9.0, 1.0, 1.1, 1.05), first_s=(0.1, 0.1, 0.1, 0.1))
    after = with_row(made, load_s=(2.0, 1.9, 2.1, 2.0), first_s=(0.1, 0.11, 0.1, 0.1))
    comparison = compare(before, after)
    (finding,) = only_row(comparison).findings
    assert finding.text.startswith("load 1.05 → 2.00 s, +90")
    assert finding.is_worse
    assert not comparison.is_worse


def test_longer_tails_are_told_though_the_median_is_the_same() -> None:
    def with_late_runs(lateness: float) -> Record:
        turns = tuple(
            Turn(start=start, round=start, seconds=(*[0.01] * 97, *[0.01 * (lateness + start / 100)] * 3))
            for start in range(4)
        )
        return with_row(record(1, design=Design(4, 1), drift=0), turns=turns)

    found = only_row(compare(with_late_runs(1.1), with_late_runs(2.0)))
    assert found.verdict in ("no change", "cannot tell")
    (finding,) = found.findings
    assert finding.text.startswith("p99 1.11 → 2.01 times the median, +80.7 % (")


def test_throttling_and_a_warm_up_without_end_are_told() -> None:
    made = record(1)
    after = with_row(made, readings=Readings(throttled=("thermal",)), is_stable=False)
    texts = [finding.text for finding in only_row(compare(made, after)).findings]
    assert texts == ["throttled after: thermal", "not stable after its warm-up after"]


# runs that are unlike


def test_the_same_conditions_need_no_word() -> None:
    assert compare(record(1), record(2)).cautions == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cpu": "another processor"}, "other processor (a processor → another processor)"),
        ({"power_mode": "15W"}, "other power mode (none → 15W)"),
        ({"gpus": ("a GPU, driver 1",)}, "other GPU (none → a GPU)"),
        ({"settings": {"OMP_NUM_THREADS": "2"}}, "other OMP_NUM_THREADS (none → 2)"),
    ],
)
def test_on_another_machine_speedups_over_the_baseline_are_compared(change: dict[str, Any], word: str) -> None:
    # Three times as slow as a whole; the second way lost 20 % besides.
    before = with_row(record(1, slower=[1.0, 0.5]), is_baseline=True)
    after = with_row(record(2, slower=[3.0, 3 * 0.6]), is_baseline=True)
    comparison = compare(before, in_environment(after, **change))
    assert comparison.cautions == (f"{word}: speed-ups over way 0 are compared, not times",)
    assert comparison.machine is None
    baseline, other = comparison.rows
    assert baseline.verdict == "baseline"
    assert other.verdict == "slower"
    assert other.change is not None
    assert other.change.percent == pytest.approx(20, abs=2)


def test_another_version_of_the_yardstick_is_another_yardstick() -> None:
    comparison = compare(record(1), record(2, yardstick_version="2.0"))
    assert comparison.cautions == (
        "other yardstick (GEMM fp32, NumPy CPU → GEMM fp32, NumPy CPU 2.0): no baseline in both",
    )
    assert only_row(comparison).verdict == "cannot tell"


def test_loading_and_memory_of_another_machine_are_not_compared() -> None:
    before = with_row(record(1), is_baseline=True, host_mib=100.0)
    after = in_environment(with_row(record(2), is_baseline=True, host_mib=900.0), cpu="another processor")
    assert only_row(compare(before, after)).findings == ()


def test_the_baseline_is_of_the_same_size_and_batch() -> None:
    def with_sizes(seed: int) -> Record:
        small, large, way = record(seed, slower=[1.0, 4.0, 2.0]).rows
        rows = (
            replace(small, is_baseline=True),
            replace(large, backend="way 0", is_baseline=True, size=(512, 512)),
            replace(way, size=(512, 512)),
        )
        return replace(record(seed), rows=rows)

    found = compare(with_sizes(1), in_environment(with_sizes(2), cores=8)).rows[2]
    assert found.against == "way 1"


@pytest.mark.parametrize(
    ("change", "caution"),
    [
        ({"versions": {"onnxruntime": "1.23.0"}}, "other versions (onnxruntime 1.22.0 → 1.23.0)"),
        ({"versions": {}}, "other versions (onnxruntime 1.22.0 → none)"),
        ({"load_before": 0.8}, "the machine was busy with something else after: load 0.8 for each core"),
    ],
)
def test_other_conditions_are_told_and_times_compared(change: dict[str, Any], caution: str) -> None:
    comparison = compare(record(1), in_environment(record(2), **change))
    assert comparison.cautions == (caution,)
    assert only_row(comparison).against == "GEMM fp32, NumPy CPU"


def test_another_driver_is_another_version_of_the_same_machine() -> None:
    before, after = (in_environment(record(day), gpus=(f"a GPU, driver {day}, 300 W",)) for day in (1, 2))
    assert compare(before, after).cautions == ("other versions (GPU a GPU, driver 1, 300 W → a GPU, driver 2, 300 W)",)


def test_another_model_is_told() -> None:
    after = record(2)
    after = replace(after, model=replace(after.model, sha256="b" * 64, file="horse.onnx"))
    assert compare(record(1), after).cautions == (
        "other model (zebra.onnx, aaaaaaaa → horse.onnx, bbbbbbbb): what changed may be its doing",
    )


def test_rows_of_a_device_without_yardstick_are_compared_as_measured_and_that_is_told() -> None:
    before, after = (with_row(record(day), device="cuda") for day in (1, 2))
    comparison = compare(before, after)
    assert comparison.cautions == (
        "times without a yardstick of their device: the machine may have been slower that day",
    )
    assert only_row(comparison).against is None


# names


def test_a_name_tells_rows_of_one_name_apart() -> None:
    (only,) = record(1).rows
    rows = (only, replace(only, size=(512, 256)), replace(only, size=(512, 256), batch=4), row("another", only.turns))
    made = replace(record(1), rows=rows)
    assert [found.name for found in compare(made, made).rows] == [
        "way 0, 256x256, batch 1",
        "way 0, 512x256, batch 1",
        "way 0, 512x256, batch 4",
        "another",
    ]


# the verdict on one line


def test_the_verdict_names_what_is_slower_and_what_could_have_been_seen() -> None:
    comparison = compare(record(1, slower=[1, 1, 1]), record(2, slower=[1, 1.2, 1]))
    change = comparison.rows[1].change
    assert comparison.verdict.startswith(f"1 row slower: way 1 {change}; no change beyond noise in 2 rows (smallest")
    assert comparison.is_worse


# the command


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, COMPARE, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    record(1, slower=[1, 1]).write(folder / "monday.json")
    record(2, slower=[1, 1]).write(folder / "tuesday.json")
    record(3, slower=[1, 1.2]).write(folder / "friday.json")
    return folder


def test_the_command_prints_a_table_and_the_verdict_and_writes_the_same(files: Path, tmp_path: Path) -> None:
    done = command(files / "monday.json", files / "friday.json", "--json", tmp_path / "new" / "comparison.json")
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert done.stdout.splitlines()[-1] == written["verdict"]
    assert [found["verdict"] for found in written["rows"]] == ["no change", "slower"]
    assert [found["is_worse"] for found in written["rows"]] == [False, True]
    assert "the machine itself, by its yardstick" in done.stdout.splitlines()[0]
    line = next(line for line in done.stdout.splitlines() if "way 1" in line)
    assert "slower" in line


def test_as_a_gate_it_ends_with_4_where_a_row_became_worse(files: Path) -> None:
    assert command(files / "monday.json", files / "friday.json", "--fail-on-worse").returncode == 4
    assert command(files / "monday.json", files / "tuesday.json", "--fail-on-worse").returncode == 0


def test_a_higher_threshold_lets_it_pass(files: Path) -> None:
    gate = (files / "monday.json", files / "friday.json", "--fail-on-worse", "--threshold", 30)
    assert command(*gate).returncode == 0


def test_a_file_of_another_kind_is_one_line_and_exit_code_2(files: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    done = command(files / "monday.json", tmp_path / "other.json")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "expected a JSON file of latency.py" in done.stderr


def test_a_place_that_cannot_be_written_is_exit_code_5(files: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command(files / "monday.json", files / "tuesday.json", "--json", tmp_path / "file" / "comparison.json")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
