"""benchmarks/refresh.py and docs/benchmarks.md: what is said of recorded figures, and of missing ones."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from commands import REPOSITORY
from records import ENVIRONMENT, record

import refresh
from i2i_runtime.errors import SinkError, UsageError
from measuring.figures import write_figures
from measuring.record import Environment, Record
from measuring.spread import Ratio
from measuring.stages import SPANS, STAGES, FrameTimes, stages_of
from reporting import plots
from reporting.page import SECTIONS, make_page

SECTION_NAMES = [section.name for section in SECTIONS]


def of(script: str) -> Environment:
    return replace(ENVIRONMENT, command=f"python benchmarks/{script}.py --json {script}.json")


def stages():
    seconds = dict(zip(SPANS, (0.002, 0.03, 0.004, 0.040, 0.003, 0.01, 0.020), strict=True))
    times = FrameTimes(
        spans={span: np.full(10, value) for span, value in seconds.items()}, outside=dict.fromkeys(STAGES, 0.0)
    )
    return stages_of([times, times], [0.70, 0.72], [times, times], [0.50, 0.51])


def part(baseline: str) -> dict:
    return {
        "what": "resnet_9blocks_ngf64.onnx, all threads",
        "provider": "ONNX Runtime CPU",
        "frames": 10,
        "baseline": baseline,
        "throughput_over_baseline": {baseline: Ratio(1, 1, 1), "pipeline": Ratio(0.987, 0.95, 1.01)},
        "ms_per_frame": {"pipeline": 123.4},
        "stages": asdict(stages()),
    }


def start(name: str, seconds: float) -> dict:
    span = {"p50": seconds, "p90": seconds}
    return {"name": name, "wall_s": span, "over_bare": Ratio(seconds / 0.02, seconds / 0.02, seconds / 0.02)}


def write_all(results: Path, latency: Record | None = None) -> None:
    """Figures of every section, measured on a CPU, with times in them wherever the scripts have some."""
    latency = latency or record(sizes=((256, 256),), batches=(1,))
    limits = "What limits OpenVINO: computing: 85 % of the work's best time (12.3 ms) goes to Conv, at 1.5 TFLOP/s"
    latency = replace(latency, advice=(*latency.advice, f"{limits}; this way reaches 45 % of that speed."))
    latency.write(results / "latency.json")
    again = replace(latency.environment, date="2026-03-01T12:07:30+00:00")
    replace(latency, environment=again).write(results / "latency-again.json")
    goal = {"name": "i2i-run --help", "limit_s": 0.3, "wall_s": 0.1, "is_met": True, "is_met_over_bare": True}
    write_figures(
        results / "startup.json",
        of("startup"),
        {
            "starts": [start("python -c pass", 0.02), start("i2i-run --help", 0.1)],
            "first_pictures": [
                {
                    "engine": "ONNX Runtime CPU fp32",
                    "whole": start("one picture, ONNX Runtime CPU fp32", 2.0),
                    "wall_s": {
                        "first inference": {"p50": 0.5, "p90": 0.6},
                        "second inference": {"p50": 0.4, "p90": 0.4},
                        "all else": {"p50": 1.5, "p90": 1.6},
                    },
                }
            ],
            "goals": [goal, {**goal, "name": "import i2i_runtime", "wall_s": 0.31, "is_met": False}],
            "left_out": [],
            "note": None,
        },
    )
    live = {"captured": 100, "dropped": 61, "latency_p99_over_bound": 0.97, "last_third_over_first": 1.0}
    live |= {"translate_ms": [81.2, 82.3, 83.4], "latency_ms": [120.1, 130.2, 140.3]}
    write_figures(
        results / "pipeline.json",
        of("pipeline"),
        {
            "heavy": part("engine alone"),
            "light": part("plain loop"),
            "live": [{"engine": "3.1 frame periods", "model": "live64", "runs": [live, live]}],
            "left_out": [],
        },
    )
    findings = ["zebra, OpenVINO CPU: latency grows as pixels^0.98 (0.95 to 1.01)", "zebra, proof: 12.5 s for 1.2 M"]
    write_figures(results / "scaling.json", of("scaling"), {"findings": findings, "left_out": [], "note": None})
    graph_io = {"ratio": Ratio(1.01, 0.91, 1.15), "size": 256, "model": "untrained U-Net, ngf 32"}
    write_figures(results / "graph_io.json", of("graph_io"), graph_io)
    settings = {"size": 64, "width": 16, "batch": 1, "device": "cpu"}
    trained = {"model": "pix2pix", "ratio": Ratio(1.19, 1.04, 1.22), "plain_steps_per_s": 3.21}
    trained |= {"ours_peak_mib": 149.0, "plain_peak_mib": 147.0}
    write_figures(
        results / "train_step.json",
        of("train_step"),
        {"results": [trained], "settings": settings, "device": ENVIRONMENT.cpu},
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    write_all(folder)
    made = make_page(folder, folder / "images")
    assert made.missing == {}
    return made.text


def section(page: str, name: str) -> str:
    """What stands between its two marks, without line breaks of paragraphs."""
    found = page.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0].strip()
    assert found, f"the page has a section {name}"
    return found


def in_one_line(text: str) -> str:
    return " ".join(text.split())


# What it says ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_figures_name_their_machine_versions_date_and_command(page, name):
    said = in_one_line(section(page, name))

    assert f"on {ENVIRONMENT.cpu}, 8 cores of a virtual machine, {ENVIRONMENT.system}, CPython 3.11.7" in said
    assert all(f"{library} {version}" in said for library, version in ENVIRONMENT.versions.items())
    assert "Measured 2026-03-01 by `python benchmarks/" in said
    assert "OMP_NUM_THREADS=8" in said
    assert "commit 1a2b3c4+" in said


def test_there_are_no_times_and_no_speeds_of_a_cpu(page):
    units = r"ms|µs|s|seconds|(?:images|pictures|steps)/s|images a second|[GT](?:FLOP|B)/s"
    times = re.compile(rf"\d\s?(?:{units})\b|(?<!')\b(?:ms|s)\b")
    for name in SECTION_NAMES:
        figures = in_one_line(section(page, name)).partition("Measured 2026")[0]
        # What a goal asks for is no measurement.
        figures = figures.replace("limit of 0.3 seconds", "")
        assert not times.search(figures), (name, times.search(figures))


def test_of_a_gpu_there_are_times(tmp_path):
    cpu = record(sizes=((256, 256),), batches=(1,))
    rows = tuple(replace(row, device="cuda") if row.backend == "openvino" else row for row in cpu.rows)
    machine = replace(ENVIRONMENT, machine="NVIDIA H100", gpus=("NVIDIA H100",))
    write_all(tmp_path, replace(cpu, rows=rows, environment=machine))

    said = section(make_page(tmp_path, tmp_path / "images").text, "latency")

    columns = [cell.strip() for cell in next(line for line in said.splitlines() if "p50" in line).split("|")]
    cells = {line.split("|")[1].strip(): line.split("|") for line in said.splitlines() if line.startswith("|")}
    of_gpu = next(row for name, row in cells.items() if name.startswith("OpenVINO CPU bf16"))
    of_cpu = next(row for name, row in cells.items() if name.startswith("PyTorch eager"))
    assert float(of_gpu[columns.index("p50 ms")]) == pytest.approx(41, rel=0.1)
    assert of_cpu[columns.index("p50 ms")].strip() == ""
    assert "NVIDIA H100 with Intel Xeon" in in_one_line(said)


def test_ways_are_compared_as_ratios_with_their_spread(page):
    said = section(page, "latency")

    assert "times as fast as PyTorch eager CPU fp32:" in said
    assert re.search(r"\| OpenVINO CPU bf16[^|]*\| 3\.\d\d \(3\.\d\d to 3\.\d\d\) \|", said)
    assert "1 (baseline)" in said
    assert r"Left out: TensorRT: not installed; pip install 'i2i\[tensorrt\]'" in in_one_line(said)
    assert "OpenVINO CPU fp16 fails: fp16-onnx-own-1.onnx: OpenVINO cannot compile it" in in_one_line(said)


def test_two_runs_of_the_same_are_no_change(page):
    said = in_one_line(section(page, "compare"))

    assert "| +0.0 |" in said
    assert "slower" not in said
    assert "and 8 minutes later by `python benchmarks/latency.py" in said


def test_a_run_that_is_not_the_same_once_more_is_not_compared(tmp_path):
    write_all(tmp_path)
    first = record(sizes=((256, 256),), batches=(1,))
    replace(first, environment=replace(first.environment, date="2026-03-05T12:00:00+00:00")).write(
        tmp_path / "latency.json"
    )

    made = make_page(tmp_path, tmp_path / "images")

    assert list(made.missing) == ["compare"]
    assert "latency-again.json is older than latency.json" in made.missing["compare"]


def test_memory_that_became_worse_is_said_where_loading_became_so_too(tmp_path):
    write_all(tmp_path)
    again = record(sizes=((256, 256),), batches=(1,))
    rows = tuple(
        replace(row, host_mib=row.host_mib and 2 * row.host_mib, load_s=tuple(3 * load for load in row.load_s))
        for row in again.rows
    )
    machine = replace(again.environment, date="2026-03-01T12:07:30+00:00")
    replace(again, rows=rows, environment=machine).write(tmp_path / "latency-again.json")

    said = in_one_line(section(make_page(tmp_path, tmp_path / "images").text, "compare"))

    assert re.search(r"In one line: .*worse besides: .*: host memory \d+ → \d+ MiB", said)
    assert "load " not in said.partition("Measured")[0]


def test_free_text_names_no_folder_and_formats_nothing(tmp_path):
    first = record(sizes=((256, 256),), batches=(1,))
    rows = (replace(first.rows[0], name="zz", failure="/home/jane/models/zebra.onnx: cannot open <b>x</b> | y"),)
    write_all(tmp_path, replace(first, rows=(*first.rows[1:], *rows), left_out=("/root/a.plan: none",)))

    said = in_one_line(section(make_page(tmp_path, tmp_path / "images").text, "latency"))

    assert r"- zz fails: zebra.onnx: cannot open \<b\>x\</b\> \| y" in said
    assert "- Left out: a.plan: none" in said


def test_the_pipeline_s_stages_are_shares(page):
    said = section(page, "pipeline")

    # 40 ms of 69 ms that the stages take, in a loop of 70 and 72 ms a frame; of 109 ms that it is in the pipeline.
    assert "| inference | 56.3% | 36.7% | 56.3% | 36.7% |" in said
    assert "| waiting for the model |   | 27.5% |   | 27.5% |" in said
    assert "The bottleneck is inference." in in_one_line(said)
    assert "| 3.1 frame periods | 61% | 0.97 (0.97 to 0.97) | 1.00 |" in said


def test_a_limit_that_python_alone_breaks_is_said_to_be_missed_for_that(page):
    said = in_one_line(section(page, "startup"))

    assert "The limit of 0.3 seconds for `i2i-run --help` is met." in said
    assert (
        "The limit of 0.3 seconds for `import i2i_runtime` is missed, though not beyond what Python itself takes."
        in said
    )
    assert "| first inference | 25% |" in said


def test_pictures_are_beside_the_page_and_small(tmp_path):
    pytest.importorskip("matplotlib")
    write_all(tmp_path)

    text = make_page(tmp_path, tmp_path / "images").text

    shown = re.findall(r"!\[[^]]+\]\(images/([^)]+)\)", text)
    assert shown
    assert sorted(shown) == sorted(path.name for path in (tmp_path / "images").iterdir())
    assert all((tmp_path / "images" / name).stat().st_size < 150_000 for name in shown)


def test_without_matplotlib_the_page_has_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "is_here", lambda: False)
    write_all(tmp_path)

    made = make_page(tmp_path, tmp_path / "images")

    assert "](images/" not in made.text
    assert made.missing == {}


# What is missing ------------------------------------------------------------------------------------------------------


def test_a_page_of_no_figures_says_how_to_get_each(tmp_path):
    made = make_page(tmp_path, tmp_path / "images")

    assert list(made.missing) == SECTION_NAMES
    for name in SECTION_NAMES:
        assert section(made.text, name) == f"Not measured yet: `python benchmarks/refresh.py --only {name}` does it."


def test_a_section_without_new_figures_stays_as_it_was(page, tmp_path):
    write_all(tmp_path)
    (tmp_path / "startup.json").unlink()
    (tmp_path / "pipeline.json").write_text("{}")

    made = make_page(tmp_path, tmp_path / "images", page)

    assert made.text == page
    assert list(made.missing) == ["startup", "pipeline"]
    assert "startup.json: expected a JSON file of a benchmark" in made.missing["startup"]


@pytest.mark.parametrize("figures", [{}, {"heavy": 7, "light": {}}, {"heavy": {"stages": None}, "light": {}}])
def test_figures_of_another_kind_leave_the_other_sections_alone(tmp_path, figures):
    write_all(tmp_path)
    write_figures(tmp_path / "pipeline.json", ENVIRONMENT, figures)

    made = make_page(tmp_path, tmp_path / "images")

    assert list(made.missing) == ["pipeline"]
    assert "its figures are of another kind" in made.missing["pipeline"]


# The command ----------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    code = refresh.refresh.main([str(argument) for argument in arguments], standalone_mode=False)
    assert isinstance(code, int)
    return code


def test_page_only_makes_the_page_of_the_figures_that_are_there(tmp_path, capsys):
    results, page = tmp_path / "results", tmp_path / "docs" / "benchmarks.md"
    write_all(results)
    options = ("--page-only", "--results", results, "--page", page)

    assert run(*options) == 0
    first = page.read_text(encoding="utf-8")
    assert run(*options) == 0

    assert page.read_text(encoding="utf-8") == first
    assert [each.name for each in page.parent.iterdir() if each.is_file()] == ["benchmarks.md"]
    assert capsys.readouterr().err == ""


def test_each_section_without_figures_is_said_in_a_line_and_the_exit_code_is_1(tmp_path, capsys):
    results = tmp_path / "results"
    write_all(results)
    (results / "scaling.json").unlink()

    assert run("--page-only", "--results", results, "--page", tmp_path / "page.md") == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"scaling: .*scaling\.json: expected a JSON file .*; its section stays as it was", line)


def test_sections_that_nobody_asked_for_stay_as_they_were_whatever_figures_are_there(page, tmp_path):
    results, file = tmp_path / "results", tmp_path / "page.md"
    write_all(results)
    file.write_text(page.replace("3.1 frame periods", "kept"), encoding="utf-8")
    (results / "latency.json").unlink()

    assert run("--page-only", "--only", "graph_io", "--results", results, "--page", file) == 0

    assert file.read_text(encoding="utf-8") == page.replace("3.1 frame periods", "kept")


def test_a_comparison_brings_what_it_is_with(tmp_path, monkeypatch):
    note = script(tmp_path, "note.py", f"import sys; open({str(tmp_path / 'ran')!r}, 'a').write(sys.argv[1])")
    bad = script(tmp_path, "bad.py", "import sys; sys.exit(4)")
    latency, again = ((note, "l"),), ((note, "c"),)
    compare = refresh.Benchmark(scripts=again, minutes=1, needs=("latency",))
    benchmarks = {"latency": refresh.Benchmark(scripts=latency, minutes=1), "compare": compare}
    monkeypatch.setattr(refresh, "BENCHMARKS", benchmarks)

    run("--only", "compare", "--results", tmp_path / "results", "--page", tmp_path / "page.md")
    benchmarks["latency"] = refresh.Benchmark(scripts=((bad,),), minutes=1)
    run("--only", "compare", "--results", tmp_path / "results", "--page", tmp_path / "page.md")

    # Without a first run there is no second one.
    assert (tmp_path / "ran").read_text() == "lc"


def test_sections_that_nobody_asked_for_may_be_without_figures(tmp_path):
    results = tmp_path / "results"
    write_all(results)
    (results / "scaling.json").unlink()

    assert run("--page-only", "--only", "latency", "--results", results, "--page", tmp_path / "page.md") == 0


def script(folder: Path, name: str, text: str) -> str:
    """From benchmarks/ to a script of a test."""
    (folder / name).write_text(text)
    return str(folder / name)


def test_benchmarks_run_one_after_the_other_and_one_that_fails_stops_its_own_scripts_only(tmp_path, monkeypatch, capfd):
    results = tmp_path / "results"
    good = script(tmp_path, "good.py", "import sys; print('good', *sys.argv[1:])")
    bad = script(tmp_path, "bad.py", "import sys; sys.exit(4)")
    of_good = refresh.Benchmark(scripts=((good, "--json", "good.json"),), minutes=1)
    of_bad = refresh.Benchmark(scripts=((bad,), (good, "never")), minutes=1)
    monkeypatch.setattr(refresh, "BENCHMARKS", {"scaling": of_bad, "graph_io": of_good})
    write_all(results)
    (tmp_path / "page.md").write_text("<!-- scaling -->\nas it was\n<!-- end of scaling -->\n")

    assert run("--results", results, "--page", tmp_path / "page.md") == 1

    assert section((tmp_path / "page.md").read_text(), "scaling") == "as it was"
    out, err = capfd.readouterr()
    assert f"good --json {results / 'good.json'}" in out
    assert "never" not in out
    assert err.splitlines() == [f"scaling: {bad} failed with exit code 4; its section stays as it was"]


def test_a_benchmark_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(refresh, "_LONGEST_S", 0.5)
    sleeper = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    hangs = script(tmp_path, "hangs.py", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])")
    monkeypatch.setattr(refresh, "BENCHMARKS", {"scaling": refresh.Benchmark(scripts=((hangs,),), minutes=1)})

    assert run("--results", tmp_path, "--page", tmp_path / "page.md") == 1

    if hasattr(os, "killpg"):
        _wait_until_ended(int((tmp_path / "pid").read_text()))


def _wait_until_ended(process: int) -> None:
    """An orphan is reaped by the system, soon after it was ended."""
    until = time.monotonic() + 10
    while Path(f"/proc/{process}/stat").exists() and Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until, "what the benchmark has started still runs"
        time.sleep(0.05)


@pytest.mark.parametrize("option", ["--results", "--page"])
def test_what_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch, option):
    monkeypatch.setattr(refresh, "_failure", lambda script, results: pytest.fail("it ran"))
    (tmp_path / "file").write_text("")
    places = {"--results": tmp_path / "results", "--page": tmp_path / "page.md", option: tmp_path / "file" / "x"}

    with pytest.raises(SinkError, match=r"file.*: expected a folder that can be written"):
        run(*(word for pair in places.items() for word in pair))


def test_a_machine_that_stays_busy_is_said_to_be(monkeypatch, capsys):
    monkeypatch.setattr(refresh, "_CALM_WITHIN_S", 0.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 0.0, 0.0), raising=False)

    refresh._wait_for_quiet()

    assert "the machine is still busy" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match=r"--only: expected some of latency,compare,.*; found lantency"):
        run("--only", "latency,lantency", "--results", tmp_path, "--page", tmp_path / "page.md")

    assert list(tmp_path.iterdir()) == []


# What belongs together ------------------------------------------------------------------------------------------------


def test_each_section_has_its_benchmark():
    assert sorted(refresh.BENCHMARKS) == sorted(SECTION_NAMES)


COMMANDS: Sequence[Sequence[str]] = [
    *(words for benchmark in refresh.BENCHMARKS.values() for words in benchmark.scripts),
    *((Path(words[1]).name, *words[2:]) for each in SECTIONS if (words := shlex.split(each.at_length))),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_scripts_have_the_options_that_they_are_given(words):
    text = (REPOSITORY / "benchmarks" / words[0]).read_text(encoding="utf-8")

    for option in words[1:]:
        assert not option.startswith("--") or f'"{option}"' in text, option


def test_the_page_of_the_repository_has_all_sections_and_no_folder_of_a_machine():
    text = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")

    for each in SECTIONS:
        assert f"## {each.title}\n" in text
        assert section(text, each.name)
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", text)
