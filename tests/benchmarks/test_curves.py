"""Points, laws and what is said of them: measuring/curves.py and reporting/curve_words.py."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import ENVIRONMENT

from i2i_runtime.errors import UsageError
from measuring.curves import Curve, grouped, law_of, line_of, point
from measuring.engine_curves import EngineHere, Place, Plan, curves_of
from measuring.record import Turn
from measuring.rounds import Measured
from reporting.curve_report import check_curves, write_curves
from reporting.curve_words import findings, rows_of

NUMBERS = st.floats(1e-3, 1e3)
PLACES = st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True)


@given(exponent=st.floats(-2, 3), factor=NUMBERS, places=PLACES, rounds=st.integers(1, 4))
def test_a_power_law_is_found_as_it_is(exponent, factor, places, rounds):
    law = law_of([point(x, str(x), [factor * x**exponent] * rounds) for x in places])

    assert law.exponent == pytest.approx(exponent, abs=1e-5)
    assert law.off == pytest.approx(0, abs=1e-4)
    assert (law.low is None) == (rounds == 1)
    if rounds > 1:
        assert (law.low, law.high) == pytest.approx((exponent, exponent), abs=1e-5)


@given(places=PLACES, values=st.data())
def test_the_exponent_is_that_of_least_squares_on_logarithms(places, values):
    seconds = [values.draw(NUMBERS) for _ in places]
    x, y = np.log(np.array(places, np.float64)), np.log(np.array(seconds, np.float64))
    expected = np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2)

    law = law_of([point(place, "", [value]) for place, value in zip(places, seconds, strict=True)])

    assert law.exponent == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_range_of_an_exponent_comes_from_single_rounds():
    # Twice as long at four times the pixels in one round, four times as long in the other.
    points = [point(1, "", [1.0, 1.0]), point(4, "", [2.0, 4.0])]

    law = law_of(points)

    assert law.low == pytest.approx(0.5)
    assert law.high == pytest.approx(1.0)
    assert law.exponent == pytest.approx(0.75)


def test_a_point_beside_the_law_says_how_far():
    law = law_of([point(1, "", [1.0]), point(10, "", [20.0]), point(100, "", [100.0])])

    # The line lies a third of the factor of two above the ends, and two thirds of it below the middle.
    assert law.exponent == pytest.approx(1)
    assert law.off == pytest.approx(2 ** (2 / 3) - 1)


@pytest.mark.parametrize("points", [[], [point(3, "", [1.0, 2.0])]])
def test_one_place_makes_neither_law_nor_line(points):
    assert law_of(points) is None
    assert line_of(points) is None


@given(base=st.integers(0, 1000), slope=st.integers(-100, 1000), places=PLACES)
def test_a_straight_line_is_found_as_it_is(base, slope, places):
    line = line_of([point(x / 10**4, "", [float(base + slope * Fraction(x, 10**4))]) for x in places])

    assert line.base + line.slope * places[0] / 10**4 == pytest.approx(base + slope * places[0] / 10**4, abs=1e-3)
    assert line.base + line.slope * places[-1] / 10**4 == pytest.approx(base + slope * places[-1] / 10**4, abs=1e-3)


def test_a_point_is_the_median_of_its_rounds_and_their_range():
    assert (found := point(1, "", [3.0, 1.0, 2.0])).rounds == (3.0, 1.0, 2.0)
    assert (found.low, found.y, found.high) == (1.0, 2.0, 3.0)


def curve(kind, *points, **given):
    return Curve(
        **{"kind": kind, "model": "zebra", "engine": "ONNX Runtime CPU", "graph": "static", "points": points} | given
    )


def test_latency_is_said_to_grow_as_a_power_of_pixels():
    points = [point(side**2, f"{side}x{side}", [side**2 * 1e-6, side**2 * 1.1e-6]) for side in (128, 256, 512)]

    assert findings([curve("latency", *points, law=law_of(points))]) == [
        "zebra, ONNX Runtime CPU, static: latency grows as pixels^1.00 (1.00 to 1.00); "
        "no point is more than 0% off that"
    ]


def test_one_round_does_not_say_how_sure_it_is_and_so_says_nothing():
    points = [point(100, "", [1.0]), point(10000, "", [10.0])]

    assert findings([curve("export", *points, engine="proof", graph=None, law=law_of(points))]) == []
    assert findings([curve("memory", *points, line=line_of(points))]) == []


def test_a_batch_is_said_to_gain_round_by_round():
    # A machine twice as slow in the second round slows both.
    points = [point(1, "1", [10.0, 5.0]), point(2, "2", [11.0, 5.5]), point(4, "4", [15.0, 7.5])]

    assert findings([curve("throughput", *points)]) == [
        "zebra, ONNX Runtime CPU, static: batches of 4 give 1.50 (1.50 to 1.50) times "
        "the images a second of single ones"
    ]


def test_threads_are_said_to_gain_as_many_times_as_they_are_ideal():
    points = [point(1, "1", [1.0, 1.0]), point(2, "2", [0.9, 0.9]), point(4, "4", [0.3, 0.3])]

    assert findings([curve("efficiency", *points)]) == [
        "zebra, ONNX Runtime CPU, static: 2 threads are 1.80 (1.80 to 1.80) times as fast as 1, 90% of ideal"
    ]


def test_threads_that_gain_nothing_are_said_to():
    points = [point(1, "1", [1.0]), point(2, "2", [0.4])]

    assert findings([curve("efficiency", *points)]) == [
        "zebra, ONNX Runtime CPU, static: more threads than 1 gain nothing"
    ]


def test_memory_is_said_to_be_a_base_and_so_much_for_each_megapixel():
    points = [point(0.5, "", [150.0, 150.0]), point(1.0, "", [200.0, 210.0])]

    assert findings([curve("memory", *points, line=line_of(points))]) == [
        "zebra, ONNX Runtime CPU, static: peak memory is 95.0 MiB, and 110 (100 to 120) MiB more for each megapixel"
    ]


def test_a_graph_of_free_sizes_is_compared_with_fixed_ones_at_the_sizes_of_both():
    free = curve(
        "latency", point(1, "1x1", [1.1, 2.2]), point(4, "2x2", [4.4, 8.8]), point(9, "3x3", [99.0, 99.0]),
        graph="dynamic",
    )  # fmt: skip
    fixed = curve("latency", point(1, "1x1", [1.0, 2.0]), point(4, "2x2", [4.0, 8.0]))
    other = curve("latency", point(1, "1x1", [5.0, 5.0]), engine="OpenVINO CPU")

    assert findings([free, fixed, other]) == [
        "zebra, ONNX Runtime CPU: a graph of free sizes takes 1.10 (1.10 to 1.10) times as long as one of a fixed size"
    ]


def test_a_graph_of_free_sizes_is_not_compared_where_no_size_is_of_both():
    free, fixed = curve("latency", point(4, "2x2", [1.0]), graph="dynamic"), curve("latency", point(4, "1x4", [1.5]))

    assert findings([free, fixed]) == []


def test_sizes_of_as_many_pixels_have_a_row_each():
    one = curve("latency", point(65536, "256x256", [0.001]), point(65536, "128x512", [0.002]))

    assert rows_of([one]) == [("256x256", ["1.00"]), ("128x512", ["2.00"])]


@pytest.mark.parametrize(
    ("device_mibs", "graph", "heights"),
    [([[500.0], [600.0]], "dynamic, GPU memory", [500, 600]), ([[500.0], []], "dynamic, host memory", [100, 100])],
)
def test_a_curve_of_memory_is_all_of_the_gpu_or_all_of_the_process_and_says_which(device_mibs, graph, heights):
    plan = Plan(sizes=((64, 64), (128, 128)), batch_size=(64, 64), threads_size=(64, 64))
    found = {
        Place("dynamic", size): Measured(
            turns=[Turn(start=0, round=0, seconds=(1.0,))], host_mibs=[100.0], device_mibs=mibs
        )
        for size, mibs in zip(plan.sizes, device_mibs, strict=True)
    }

    curves = curves_of("zebra", EngineHere(name="ONNX Runtime CUDA", backend="onnxruntime", device="cuda"), plan, found)

    (memory,) = [curve for curve in curves if curve.kind == "memory"]
    assert memory.graph == graph
    assert [each.y for each in memory.points] == heights


def test_a_report_of_curves_replaces_its_own_and_no_other_page(tmp_path):
    two = [curve("latency", point(1, "1x1", [1.0])), curve("memory", point(1, "1x1", [1.0]))]
    write_curves(two, ["/home/jane/zebra.onnx: cannot open <b>"], ENVIRONMENT, tmp_path)
    write_curves(two[:1], [], ENVIRONMENT, tmp_path)

    page = (tmp_path / "scaling.md").read_text()
    shown = set(re.findall(r"\]\(([^)]+)\)", page))
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.md"} | shown
    (tmp_path / "scaling.md").write_text("# Mine")
    with pytest.raises(UsageError, match=r"scaling.md: expected a report of scaling.py, found another file"):
        check_curves(tmp_path)
    with pytest.raises(UsageError, match="expected a folder for the report, found a file"):
        check_curves(tmp_path / "scaling.md")


def test_sentences_of_a_report_name_no_folder_and_format_nothing(tmp_path):
    write_curves([curve("latency", point(1, "1x1", [1.0]))], ["/home/jane/a.onnx: <b>"], ENVIRONMENT, tmp_path)

    assert "\n- a.onnx: \\<b\\>\n" in (tmp_path / "scaling.md").read_text()


def test_a_table_has_a_row_for_each_place_and_a_dash_where_a_curve_has_none():
    one = curve("latency", point(4, "2x2", [0.002]), point(1, "1x1", [0.001, 0.003]))
    two = curve("latency", point(4, "2x2", [0.004]), graph="dynamic")

    assert rows_of([one, two]) == [("1x1", ["2.00 (1.00 to 3.00)", "-"]), ("2x2", ["2.00", "4.00"])]


def test_curves_of_a_model_and_kind_belong_together():
    one, two = curve("latency"), curve("latency", graph="dynamic")
    memory, horse = curve("memory"), curve("latency", model="horse")

    assert grouped([one, memory, two, horse]) == [[one, two], [memory], [horse]]
