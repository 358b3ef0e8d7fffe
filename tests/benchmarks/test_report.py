"""What a record looks like to a person: on a terminal, as a report, as pictures."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import python
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from records import TORCH, record
from rich.console import Console

from i2i_runtime.errors import SinkError, UsageError
from measuring.record import (
    LayerCost,
    Model,
    Peak,
    Quality,
    Readings,
    Record,
    Roof,
    Row,
    Turn,
    Workload,
    read_record,
)
from reporting import plots
from reporting.report import check_report, escaped, markdown_table, write_report
from reporting.standing import groups
from reporting.table import show

BEST = "OpenVINO CPU bf16"
SMALL = record(sizes=[(256, 256)], batches=[1])
WHOLE = record()


def on_terminal(shown: Record, width: int | None = None) -> str:
    """What `show` prints; to a file where there is no width."""
    out = io.StringIO()
    show(shown, Console(file=out, force_terminal=width is not None, width=width, color_system=None))
    return out.getvalue()


def report_of(shown: Record, folder: Path) -> str:
    return write_report(shown, folder).read_text(encoding="utf-8")


def with_rows(rows: list[Row] | tuple[Row, ...], shown: Record = SMALL) -> Record:
    return replace(shown, rows=tuple(rows))


def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without matplotlib; what it is like there shows below, in a process of its own."""
    monkeypatch.setattr(plots, "is_here", lambda: False)


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each table, a row for its titles first; split as GitHub does: at pipes that are not escaped."""
    found = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
        for table in found
    ]


def table_after(page: str, title: str) -> list[dict[str, str]]:
    """The first table below a title, a dictionary for each row."""
    titles, _, *rows = tables(page.partition(f"{title}\n")[2])[0]
    return [dict(zip(titles, row, strict=True)) for row in rows]


def row_named(shown: Record, name: str) -> Row:
    return next(row for row in shown.rows if row.name == name)


def seconds_of(row: Row) -> np.ndarray:
    return np.array([value for turn in row.turns for value in turn.seconds], np.float64)


def ratios(row: Row, baseline: Row) -> list[float]:
    """By round, how many times as fast, the same figure as the report's from its definition."""
    medians = [{turn.round: np.median(turn.seconds) for turn in each.turns} for each in (row, baseline)]
    return [medians[1][number] / medians[0][number] for number in medians[0]]


# The figures ----------------------------------------------------------------------------------------------------------


def test_a_report_has_every_rows_times(tmp_path, monkeypatch):
    without_plots(monkeypatch)
    found = table_after(report_of(SMALL, tmp_path), "### 256x256, batch 1")

    ran = [row for row in SMALL.rows if row.failure is None]
    assert len(found) == len(ran)
    for row in ran:
        seconds = seconds_of(row)
        p50, p90, p99 = np.percentile(1000 * seconds, [50, 90, 99])
        medians = [np.median(turn.seconds) for turn in row.turns]
        (cells,) = [each for each in found if float(each["p50 ms"]) == pytest.approx(p50, rel=0.006)]
        assert cells["engine"].startswith(row.name)
        assert float(cells["p90 ms"]) == pytest.approx(p90, rel=0.006)
        assert float(cells["p99 ms"]) == pytest.approx(p99, rel=0.006)
        assert float(cells["images/s"]) == pytest.approx(1000 / p50, rel=0.006)
        spread = (max(medians) - min(medians)) / 2 / np.median(seconds)
        assert float(cells["± %"]) == pytest.approx(100 * spread, abs=0.06)


def test_speed_is_a_ratio_taken_round_by_round(tmp_path, monkeypatch):
    without_plots(monkeypatch)
    found = table_after(report_of(SMALL, tmp_path), "### 256x256, batch 1")

    # Of nine rounds the range is that of all.
    expected = np.percentile(ratios(row_named(SMALL, BEST), row_named(SMALL, TORCH)), [50, 0, 100])
    (cells,) = [each for each in found if each["engine"].startswith(BEST)]
    assert [float(word) for word in re.findall(r"[\d.]+", cells["times as fast"])] == pytest.approx(expected, abs=0.006)
    (baseline,) = [each for each in found if each["engine"].startswith(TORCH)]
    assert baseline["times as fast"] == "1 (baseline)"


def test_energy_is_power_times_the_mean_time_of_an_image(tmp_path, monkeypatch):
    without_plots(monkeypatch)
    shown = record(sizes=[(256, 256)], batches=[4])
    found = table_after(report_of(shown, tmp_path), "## What the machine did meanwhile")

    row = row_named(shown, BEST)
    (cells,) = [each for each in found if each["engine"] == BEST]
    assert float(cells["energy J/image"]) == pytest.approx(row.readings.power_w * seconds_of(row).mean() / 4, rel=0.006)
    assert float(cells["power of CPU package, W"]) == pytest.approx(row.readings.power_w, rel=0.006)


def test_a_report_counts_the_work_and_its_dearest_layers(tmp_path, monkeypatch):
    without_plots(monkeypatch)
    page = report_of(SMALL, tmp_path)

    (work,) = SMALL.workloads
    (cells,) = table_after(page, "## What limits it")
    assert cells["MACs"] == f"{work.macs / 1e9:.1f} G"
    assert cells["FLOPs"] == f"{work.flops / 1e9:.0f} G"
    assert float(cells["FLOPs for each byte"]) == pytest.approx(work.flops / work.bytes, rel=0.006)
    layers = table_after(page, "The layers that cost most, at 256x256, batch 1:\n")
    assert float(layers[0]["% of the FLOPs"]) == pytest.approx(100 * 87.0e9 / work.flops, abs=0.06)
    assert sum(float(layer["% of the bytes"]) for layer in layers) == pytest.approx(100, abs=0.5)


def test_a_report_has_the_peaks_with_their_spread_and_what_was_reached_of_them(tmp_path, monkeypatch):
    without_plots(monkeypatch)
    page = report_of(SMALL, tmp_path)

    peaks = table_after(page, "What this machine can do at most, each measured in its best round:\n")
    assert {"": "copy, CPU", "reached": "81.0 GB/s", "lowest to highest round": "74.0 GB/s to 81.0 GB/s"} in peaks
    (cells,) = [row for row in table_after(page, "### Below the roof: 256x256, batch 1") if row["engine"] == BEST]
    row = row_named(SMALL, BEST)
    median = np.median(seconds_of(row))
    assert float(cells["% of peak"]) == round(100 * SMALL.workloads[0].flops / median / 3.8e12)
    assert float(cells["% of roof"]) == round(100 * row.roof.ideal_s / median)
    assert cells["what limits it"] == row.roof.limit


def test_a_report_names_machine_command_and_method(tmp_path, monkeypatch):
    without_plots(monkeypatch)
    page = report_of(SMALL, tmp_path)

    assert f"\n    {SMALL.environment.command}\n" in page
    for words in ("Intel Xeon Platinum 8481C, 8 cores", "avx512_bf16", "openvino 2025.4.0", "OMP_NUM_THREADS=8"):
        assert words in page
    assert "started anew 3 times" in page
    assert "turns in 9 rounds" in page
    assert "TensorRT: not installed" in page


def test_a_report_says_what_could_not_be_read_and_why_that_matters(tmp_path, monkeypatch):
    without_plots(monkeypatch)
    page = report_of(with_rows([replace(row, readings=Readings()) for row in SMALL.rows]), tmp_path)

    for words in ("Power was not readable", "clock was not readable", "temperature was not", "slowed itself down was"):
        assert words in page
    assert "W |" not in page


# The answer -----------------------------------------------------------------------------------------------------------


def first_line(shown: Record, folder: Path) -> str:
    return report_of(shown, folder).splitlines()[0].removeprefix("# ")


@pytest.fixture
def no_plots(monkeypatch):
    without_plots(monkeypatch)


@pytest.mark.usefixtures("no_plots")
def test_the_first_line_says_what_to_use(tmp_path):
    gain = np.median(ratios(row_named(SMALL, BEST), row_named(SMALL, TORCH)))

    assert first_line(SMALL, tmp_path) == f"Use {BEST}: {gain:.2f} times as fast as {TORCH}, 51 dB from it"


@pytest.mark.usefixtures("no_plots")
def test_the_first_line_has_the_range_over_sizes_where_all_say_the_same(tmp_path):
    gains = []
    for size in ((256, 256), (512, 512)):
        rows = [row for row in WHOLE.rows if (row.size, row.batch) == (size, 1)]
        one, other = (next(row for row in rows if row.name == name) for name in (BEST, TORCH))
        gains.append(np.median(ratios(one, other)))

    assert first_line(WHOLE, tmp_path).startswith(f"Use {BEST}: {min(gains):.2f} to {max(gains):.2f} times as fast")


@pytest.mark.usefixtures("no_plots")
def test_the_first_line_says_what_to_use_at_each_size_where_that_differs(tmp_path):
    rows = [row for row in WHOLE.rows if (row.size, row.name) != ((512, 512), BEST)]

    line = first_line(with_rows(rows, WHOLE), tmp_path)

    assert re.fullmatch(rf"At 256x256 use {BEST}: .*; at 512x512 use OpenVINO CPU fp32: .*", line)


@pytest.mark.usefixtures("no_plots")
def test_the_first_line_says_so_where_nothing_is_faster_than_the_baseline(tmp_path):
    rows = [row for row in SMALL.rows if row.name in (TORCH, "OpenVINO CPU int8")]

    assert first_line(with_rows(rows), tmp_path) == f"Use {TORCH}: nothing that is faster here gives the right answer"


@pytest.mark.usefixtures("no_plots")
def test_the_first_line_says_so_where_nothing_ran(tmp_path):
    rows = [replace(row, failure="it would not", turns=()) for row in SMALL.rows]

    assert first_line(with_rows(rows), tmp_path) == "No way to run zebra works here"


@pytest.mark.parametrize(
    ("backends", "baseline"),
    [
        (("openvino", "onnxruntime", "torch-compile", "torch"), TORCH),
        (("openvino", "onnxruntime", "torch-compile"), "ONNX Runtime CPU fp32, float"),
        (("openvino",), "OpenVINO CPU fp32"),
    ],
)
def test_the_baseline_is_pytorch_else_onnx_runtime_else_the_first(backends, baseline):
    rows = [row for backend in backends for row in SMALL.rows if row.backend == backend]

    text = on_terminal(with_rows(rows))

    assert text.startswith(f"256x256, batch 1; times as fast as {baseline}")
    assert "1 (baseline)" in next(line for line in text.splitlines()[1:] if line.startswith(baseline))


def test_a_baseline_that_fails_is_none():
    rows = [replace(row, failure="no", turns=()) if row.name == TORCH else row for row in SMALL.rows]

    assert on_terminal(with_rows(rows)).startswith("256x256, batch 1; times as fast as ONNX Runtime CPU fp32, float")


# On a terminal --------------------------------------------------------------------------------------------------------


def table_lines(text: str) -> list[str]:
    """Those of tables: between a title and the first footnote or sentence."""
    return [line for line in text.splitlines() if re.search(r"\S  +\S", line)]


def test_a_file_or_a_pipe_gets_plain_text_of_100_columns():
    text = on_terminal(WHOLE)

    assert "\x1b" not in text
    assert 80 < max(map(len, table_lines(text))) <= 100


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_terminal_is_too_narrow_for_any_figure(width):
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(SMALL, width))

    assert max(map(len, table_lines(text))) <= width
    for title in ("p50", "p99", "images", "PSNR", "SSIM", "peak", "limit", "load", "first", "host", "power", "energy"):
        assert len(re.findall(rf"\b{title}\b", text.partition("times as fast: median")[0])) >= 1


def test_a_wide_terminal_has_one_table():
    assert len(re.findall(r"^OpenVINO CPU bf16 ", on_terminal(SMALL, 100), re.MULTILINE)) == 2
    assert len(re.findall(r"OpenVINO CPU bf16 ", on_terminal(SMALL, 200).partition("what to do")[0])) == 1


def test_what_no_row_has_takes_no_column():
    text = on_terminal(with_rows([replace(row, readings=Readings(), roof=None, quality=None) for row in SMALL.rows]))

    heads = text.partition("times as fast: median")[0]
    for title in ("GPU", "power", "energy", "PSNR", "SSIM", "peak", "limit"):
        assert title not in heads


def test_a_failed_row_says_why():
    assert "OpenVINO CPU fp16 failed: fp16-onnx-own-1.onnx: OpenVINO cannot compile it" in on_terminal(SMALL)


def test_rows_to_be_wary_of_have_a_footnote():
    rows = [
        replace(row, readings=Readings(busy_elsewhere=0.2, stolen=0.1)) if row.name == BEST else row
        for row in SMALL.rows
    ]
    text = on_terminal(with_rows(rows))

    for name, words in (
        ("OpenVINO CPU int8", "the hardware slowed itself down: thermal"),
        ("torch.compile CPU fp32", "its time was not stable yet"),
        (BEST, "the machine was busy: others had 30%"),
        ("ONNX Runtime CPU int8", "below the 40 dB that --engine auto asks for"),
    ):
        (letter,) = re.findall(rf"^\((\w)\) {words}", text, re.MULTILINE)
        marked = re.search(rf"^{name} \(([a-z, ]+)\)", text, re.MULTILINE)
        assert marked is not None
        assert letter in marked[1].split(", ")


def test_what_holds_for_all_rows_is_said_once():
    rows = [replace(row, readings=Readings(busy_elsewhere=0.2)) for row in SMALL.rows]

    assert "all: the machine was busy: others had 20% of its CPU time" in on_terminal(with_rows(rows))


def test_advice_and_what_was_left_out_come_last():
    assert (
        on_terminal(SMALL)
        .rstrip()
        .endswith(
            "\n".join(
                [
                    "what to do",
                    *(f"- {line}" for line in SMALL.advice),
                    "left out",
                    *(f"- {line}" for line in SMALL.left_out),
                ]
            )
        )
    )


def test_an_answer_that_is_the_very_same_is_called_so():
    (line,) = re.findall(r"^ONNX Runtime CPU fp32, uint8.*$", on_terminal(SMALL, 200), re.MULTILINE)

    assert " same " in line


# The folder -----------------------------------------------------------------------------------------------------------


def test_a_report_can_be_made_again_from_the_json(tmp_path):
    SMALL.write(tmp_path / "figures.json")

    write_report(SMALL, tmp_path / "one")
    write_report(read_record(tmp_path / "figures.json"), tmp_path / "two")

    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == other
    assert set(one) == {
        "report.md",
        *(f"{kind}-256x256-batch1.png" for kind in ("latency", "fidelity", "rounds", "roofline")),
    }


def test_a_report_shows_the_pictures_that_lie_beside_it(tmp_path):
    page = report_of(SMALL, tmp_path)

    shown = re.findall(r"^!\[.+\]\((.+)\)\n\n\S", page, re.MULTILINE)
    assert sorted(shown) == sorted(path.name for path in tmp_path.glob("*.png"))
    for name in shown:
        assert cv2.imread(str(tmp_path / name)).shape[1] == 1600


def test_another_report_replaces_all_of_the_first(tmp_path):
    (tmp_path / "figures.json").write_text("{}")
    (tmp_path / "photo-256x256-batch1.png").write_bytes(b"mine")
    write_report(SMALL, tmp_path)

    write_report(record(sizes=[(512, 512)], batches=[1]), tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md",
        "figures.json",
        "photo-256x256-batch1.png",
        *(f"{kind}-512x512-batch1.png" for kind in ("latency", "fidelity", "rounds", "roofline")),
    }
    assert (tmp_path / "photo-256x256-batch1.png").read_bytes() == b"mine"


def test_a_report_of_someone_else_is_not_replaced(tmp_path):
    (tmp_path / "report.md").write_text("# Mine\n\n![a](latency-256x256-batch1.png)\n")

    with pytest.raises(UsageError, match=r"report\.md: expected a report of latency\.py, found another file"):
        write_report(SMALL, tmp_path)

    assert (tmp_path / "report.md").read_text().startswith("# Mine")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_a_file_in_the_folders_place_is_found_before_anything_is_measured(tmp_path):
    (tmp_path / "report").write_text("")

    with pytest.raises(UsageError, match="expected a folder for the report, found a file"):
        check_report(tmp_path / "report")


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(SinkError, match="choose another"):
        write_report(SMALL, tmp_path / "file" / "report")


def test_without_matplotlib_there_is_a_report_without_plots(tmp_path):
    SMALL.write(tmp_path / "figures.json")

    done = python(
        "import sys\nsys.modules['matplotlib'] = None\nsys.path.append(sys.argv[3])\n"
        "from pathlib import Path\nfrom measuring.record import read_record\n"
        "from reporting.report import write_report\n"
        "print(write_report(read_record(Path(sys.argv[1])), Path(sys.argv[2])))",
        tmp_path / "figures.json",
        tmp_path / "report",
        Path(plots.__file__).parents[1],
    )

    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "report.md").read_text()
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.md"]
    assert "![" not in page
    assert escaped("plots: matplotlib draws them, and is not installed; pip install 'i2i[bench]'") in page
    assert table_after(page, "### 256x256, batch 1")


# What may stand in it -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plots")
def test_no_folder_of_this_machine_is_in_a_report(tmp_path):
    rows = [
        replace(row, failure="/tmp/i2i-latency-x1/fp16.onnx: no kernel (see '/home/lovelace/log.txt')")
        if row.failure
        else row
        for row in SMALL.rows
    ]
    shown = replace(
        with_rows(rows), left_out=(r"C:\Users\lovelace\zebra.plan: built elsewhere", "plan: see ~/models/zebra.plan")
    )

    page = report_of(shown, tmp_path)

    for word in ("lovelace", "/tmp", "/home", "Users", "~/"):
        assert word not in page
    for word in ("fp16.onnx", "log.txt", "zebra.plan"):
        assert word in page


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    "words",
    [
        "CPU power: sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj",
        "PyTorch: see https://pytorch.org/get-started/locally/",
        "12 images/s, 3 J/image, float32/bf16",
    ],
)
def test_other_slashes_stay(tmp_path, words):
    assert f"- {escaped(words)}\n" in report_of(replace(SMALL, left_out=(words,)), tmp_path)


HARD_NAMES = ["a|b", "a\\|b", "**bold**", "`code`", "[link](x)", "<b>", "~~gone~~", "$x$", "_a_", "two\nlines", "&lt;"]


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("name", HARD_NAMES)
def test_names_with_marks_of_markdown_do_not_break_a_table(tmp_path, name):
    rows = [replace(row, name=name) if row.name == BEST else row for row in SMALL.rows]

    for table in tables(report_of(with_rows(rows), tmp_path)):
        assert {len(row) for row in table} == {len(table[0])}


@given(st.lists(st.lists(st.text(max_size=12), min_size=3, max_size=3), max_size=4))
def test_cells_come_out_of_a_table_as_they_went_in(rows):
    (table,) = tables(f"{markdown_table(['a', 'b', 'c'], rows)}\n")

    plain = [[re.sub(r"\\([^A-Za-z0-9\s])", r"\1", cell) for cell in row] for row in table[2:]]
    shown = [["".join(c if c.isprintable() else " " for c in cell).split() for cell in row] for row in rows]
    assert [[cell.split() for cell in row] for row in plain] == shown


def test_columns_of_figures_are_aligned_to_the_right():
    table = markdown_table(["engine", "ms", "at"], [["4 cores", "1.5 (1.4 to 1.6)", "256x256"], ["x", "-", "1 batch"]])

    assert table.splitlines()[1] == "| --- | ---: | --- |"


# Pictures -------------------------------------------------------------------------------------------------------------


def faster(row: Row, times: float, **changes: object) -> Row:
    turns = tuple(replace(turn, seconds=tuple(value / times for value in turn.seconds)) for turn in row.turns)
    return replace(row, turns=turns, **changes)  # type: ignore[arg-type]


def many_rows() -> Record:
    """Twenty, some of them at the same place."""
    template = row_named(SMALL, BEST)
    more = [
        faster(template, 0.5 + 0.1 * number, name=f"{name} CPU {precision}", backend=backend, precision=precision)
        for number, (name, backend, precision) in enumerate(
            (name, backend, precision)
            for name, backend in (("TensorRT", "tensorrt"), ("TensorRT-RTX", "tensorrt-rtx"), ("Other", "other"))
            for precision in ("fp32", "fp16", "bf16", "int8")
        )
    ]
    return with_rows([*SMALL.rows, *more])


PICTURED = {
    "nine rows": SMALL,
    "two rows": with_rows(SMALL.rows[:2]),
    "one row": with_rows(SMALL.rows[:1]),
    "twenty rows": many_rows(),
    "very long names": with_rows([replace(row, name=f"{row.name} {'of many words ' * 9}") for row in SMALL.rows]),
    "all of the same quality": with_rows(
        [replace(row, quality=row.quality and replace(row.quality, psnr_db=999.0)) for row in SMALL.rows]
    ),
    "times far apart": with_rows([faster(row, 0.02) if row.name == TORCH else row for row in SMALL.rows]),
    "times all the same": with_rows(
        [replace(row, turns=tuple(replace(turn, seconds=(0.1, 0.1)) for turn in row.turns)) for row in SMALL.rows]
    ),
    "names that no font has": with_rows([replace(row, name=f"{row.name} $\\alpha$ 斑马 🦓") for row in SMALL.rows]),
}
DRAWN: dict[str, Callable[[Record, Path], object]] = {
    "latency": lambda shown, path: plots.distribution(groups(shown)[0], path),
    "fidelity": lambda shown, path: plots.fidelity(groups(shown)[0], path),
    "roofline": lambda shown, path: plots.roofline(groups(shown)[0], shown.peaks, path),
    "rounds": lambda shown, path: plots.rounds(groups(shown)[0], shown, path),
}


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("case", PICTURED)
def test_no_text_in_a_picture_covers_another_or_leaves_it(tmp_path, monkeypatch, kind, case):
    figures = []
    drawing = plots.picture

    @contextlib.contextmanager
    def watched(path, **settings) -> Iterator[object]:
        with drawing(path, **settings) as axes:
            figures.append(axes.figure)
            yield axes

    monkeypatch.setattr(plots, "picture", watched)
    if DRAWN[kind](PICTURED[case], tmp_path / "picture.png") is None:
        assert (kind, case) == ("fidelity", "one row")
        return

    (figure,) = figures
    texts = list(drawn_texts(figure))
    width, height = figure.bbox.size
    for index, (text, box) in enumerate(texts):
        assert -2 <= box.x0 <= box.x1 <= width + 2, text
        assert -2 <= box.y0 <= box.y1 <= height + 2, text
        assert not [other for other, covered in texts[:index] if box.overlaps(covered)], text


def drawn_texts(figure: Figure) -> Iterator[tuple[str, Bbox]]:
    """All texts with the boxes that they fill, in pixels."""
    (axes,) = figure.axes
    beyond: set[Text] = set()
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    for text in figure.findobj(Text):
        # The label of the slope lies askew, and so does not fill its box.
        if text.get_text() and text.get_visible() and text not in beyond and text.get_rotation() in (0, 90):
            yield text.get_text(), text.get_window_extent().padded(-2)


def test_a_backend_has_one_colour_and_no_two_the_same():
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_the_pictures_say_which_rows_they_leave_out(tmp_path):
    rows = [replace(row, quality=None) if row.name == BEST else row for row in SMALL.rows]

    plot = plots.fidelity(groups(with_rows(rows))[0], tmp_path / "picture.png")

    assert plot is not None
    assert plot.reading.endswith(f"Not in it, since their distance is not known: {BEST}.")


# Any record -----------------------------------------------------------------------------------------------------------

words = st.text(max_size=12)
amounts = st.integers(0, 10**13)
rates = st.floats(1e3, 1e15)
shares = st.none() | st.floats(0, 1)
levels = st.none() | st.floats(0, 1e4)
precisions = st.sampled_from(["fp32", "fp16", "bf16", "int8"])
sizes = st.sampled_from([(256, 256), (8, 1024)])
batches = st.integers(1, 2)
seconds = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=4).map(tuple)
turns = st.builds(Turn, start=st.integers(0, 2), round=st.integers(0, 30), seconds=seconds)
qualities = st.builds(Quality, against=words, pictures=st.integers(0, 9), psnr_db=st.floats(-20, 999), ssim=shares)
roofs = st.builds(
    Roof,
    flops_per_second=st.just(0.0) | rates,
    intensity=st.just(0.0) | st.floats(1e-3, 1e6),
    percent_of_peak=st.floats(0, 1e3),
    ideal_s=st.floats(0, 1e3),
    percent_of_roof=st.floats(0, 1e3),
    limit=words,
)
readings = st.builds(
    Readings,
    power_w=levels,
    power_of=st.none() | words,
    clock_mhz=levels,
    clock_max_mhz=levels,
    temperature_c=levels,
    throttled=st.lists(words, max_size=2).map(tuple),
    can_see_throttling=st.booleans(),
    utilisation=shares,
    stolen=shares,
    busy_elsewhere=shares,
)
rows = st.builds(
    Row,
    name=words,
    backend=st.sampled_from([*plots.COLOURS, "other"]),
    device=st.sampled_from(["cpu", "cuda"]),
    precision=precisions,
    size=sizes,
    batch=batches,
    threads=st.none() | st.integers(1, 64),
    graph=words,
    how=st.none() | words,
    is_baseline=st.booleans(),
    failure=st.none() | words,
    load_s=st.lists(st.floats(0, 1e3), max_size=3).map(tuple),
    first_s=st.lists(st.floats(0, 1e3), max_size=3).map(tuple),
    warm_up_runs=st.lists(st.integers(0, 999), max_size=3).map(tuple),
    is_stable=st.booleans(),
    turns=st.lists(turns, max_size=5).map(tuple),
    host_mib=levels,
    device_mib=levels,
    readings=readings,
    quality=st.none() | qualities,
    roof=st.none() | roofs,
)
layers = st.builds(LayerCost, kind=words, nodes=st.integers(1, 99), macs=amounts, flops=amounts, bytes=amounts)
works = st.builds(
    Workload,
    size=sizes,
    batch=batches,
    precision=precisions,
    macs=amounts,
    flops=amounts,
    bytes=amounts,
    parameters=amounts,
    parameter_bytes=amounts,
    layers=st.lists(layers, max_size=10).map(tuple),
)
peaks = st.builds(
    Peak,
    what=st.sampled_from(["gemm", "conv", "copy"]),
    name=words,
    device=st.sampled_from(["cpu", "cuda"]),
    precision=st.none() | precisions,
    per_second=rates,
    spread=st.tuples(rates, rates),
)
records = st.builds(
    Record,
    environment=st.just(SMALL.environment),
    model=st.builds(Model, name=words, file=words, sha256=words, architecture=words, is_trained=st.booleans()),
    workloads=st.lists(works, max_size=3).map(tuple),
    peaks=st.lists(peaks, max_size=5).map(tuple),
    rows=st.lists(rows, max_size=6).map(tuple),
    yardstick=st.lists(turns, max_size=4).map(tuple),
    yardstick_name=words,
    left_out=st.lists(words, max_size=2).map(tuple),
    advice=st.lists(words, max_size=2).map(tuple),
)


@given(records, st.sampled_from([None, 40, 100, 250]))
@settings(deadline=None)
def test_any_record_can_be_shown(shown, width):
    text = on_terminal(shown, width)

    for row in shown.rows:
        assert (row.failure is None and bool(row.turns)) or "failed" in text


@given(records)
@settings(deadline=None, max_examples=25)
def test_any_record_makes_a_report(shown):
    with TemporaryDirectory() as name:
        page = report_of(shown, Path(name) / "report")

    assert page.startswith("# ")
    for table in tables(page):
        assert {len(row) for row in table} == {len(table[0])}


def test_the_records_of_these_tests_are_what_a_json_file_can_hold():
    assert json.loads(json.dumps(asdict(WHOLE), allow_nan=False))["version"] == 1
