"""Where the time of a frame goes: benchmarks/pipeline.py, and the clocks and figures it measures with."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import make_card, negative_model
from records import ENVIRONMENT

import pipeline
from i2i_runtime import Translator, open_source
from i2i_runtime.card import LabelSpec
from i2i_runtime.engines.base import Engine
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import I2IError, SinkError, UsageError
from i2i_runtime.sinks.video import VideoSink
from measuring.figures import interleaved, ratio, read_figures, words, write_figures
from measuring.output import check_output
from measuring.spread import Ratio
from measuring.stages import SPANS, STAGES, THREADS, Clocks, FrameTimes, read_stages, stages_of
from reporting.stage_plot import draw_stages

FRAMES = 12


def light_model(folder: Path) -> Path:
    """The smallest that the test pattern can be drawn for."""
    return negative_model(folder / "negative.onnx", make_card((128, 128)))


# A real run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pipeline.FileRun:
    """Part 1 with a model that costs next to nothing, so that every stage is seen."""
    folder = tmp_path_factory.mktemp("pipeline")
    return pipeline.heavy(
        folder, negative_model(folder / "negative.onnx", make_card((128, 128))), rounds=2, frames=FRAMES
    )


def test_the_stages_explain_the_plain_loop_and_count_nothing_twice(run):
    assert 0.8 <= run.stages.explained.low <= run.stages.explained.high <= 1


def test_every_frame_is_decoded_translated_and_encoded(run):
    assert run.frames == FRAMES
    assert all(0 < stage.loop_ms[0] <= stage.loop_ms[1] for stage in run.stages.stages.values())
    assert all(0 < stage.pipeline_ms[0] <= stage.pipeline_ms[1] for stage in run.stages.stages.values())


def test_a_frame_s_time_in_the_pipeline_is_its_stages_and_its_waiting(run):
    assert list(run.stages.in_pipeline) == list(SPANS)
    assert sum(run.stages.in_pipeline.values()) == pytest.approx(1)
    assert all(share >= 0 for share in run.stages.in_pipeline.values())


def test_no_thread_is_busier_than_the_run_is_long(run):
    assert list(run.stages.busy) == list(THREADS)
    assert all(0 < share.high <= 1 for share in run.stages.busy.values())


def test_throughput_is_over_the_engine_alone(run):
    assert run.throughput_over_baseline["engine alone"] == Ratio(1, 1, 1)
    assert run.throughput_over_baseline["plain loop"].high < 1
    assert "ONNX Runtime" in run.provider


@pytest.mark.parametrize("bare", [False, True], ids=["card", "no card"])
def test_a_model_for_all_sizes_runs_alone_at_the_size_of_the_video(tmp_path, monkeypatch, bare):
    model = negative_model(tmp_path / "free.onnx", make_card(None), bare=bare)
    sizes = set()
    run_as_it_is = Engine.run

    def noted(engine, *inputs, out=None):
        sizes.add(inputs[0].shape)
        return run_as_it_is(engine, *inputs, out=out)

    monkeypatch.setattr(Engine, "run", noted)
    pipeline.heavy(tmp_path, model, rounds=1, frames=2)

    assert sizes == {(1, 3, 256, 256)}


def test_a_model_smaller_than_any_pattern_runs_at_its_own_size(tmp_path):
    model = negative_model(tmp_path / "small.onnx", make_card((64, 64)))

    assert pipeline.heavy(tmp_path, model, rounds=1, frames=2).frames == 2


@pytest.mark.parametrize(("seconds", "shown"), [(0.2 / 30, ["0.2 frame periods"]), (1.0 / 30, []), (2.5 / 30, ["2.5"])])
def test_live_rows_are_called_by_their_cost_and_left_out_where_they_miss_their_aim(
    tmp_path, monkeypatch, seconds, shown
):
    monkeypatch.setattr(pipeline, "save_untrained", lambda path, *_: light_model(path.parent))
    monkeypatch.setattr(pipeline, "seconds_per_run", lambda act: seconds)
    monkeypatch.setattr(pipeline, "one_live_run", lambda model, seconds: {})

    found, left_out = pipeline.live(tmp_path, 1.0, 1, (8, 16))

    assert [each["engine"][:3] for each in found] == [each[:3] for each in shown]
    assert len(found) + len(left_out) == 2


def test_a_live_run_of_one_frame_is_measured(tmp_path):
    found = pipeline.one_live_run(light_model(tmp_path), 0.01)

    assert found["last_third_over_first"] == 1


def test_what_is_translated_while_it_is_timed_is_what_is_translated_otherwise(tmp_path):
    model = light_model(tmp_path)
    video = pipeline.draw_video(tmp_path / "in.mp4", (128, 128), 3)
    with open_engine(model) as engine:
        runs = pipeline.FileRuns(engine, "letterbox", video, tmp_path / "loop.mp4")
        runs.plain_loop()
    with open_engine(model) as engine:
        pipeline.FileRuns(engine, "letterbox", video, tmp_path / "pipeline.mp4").through_pipeline()
    with Translator(model) as translator, VideoSink(tmp_path / "plain.mp4") as sink:
        source = open_source(video)
        sink.start(source.info)
        for frame in source:
            sink.write(replace(frame, image=translator(frame.image)))
        source.close()

    wanted = (tmp_path / "plain.mp4").read_bytes()
    assert (tmp_path / "loop.mp4").read_bytes() == wanted
    assert (tmp_path / "pipeline.mp4").read_bytes() == wanted


def test_the_script_writes_all_parts_and_draws_the_stages(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    tiny = pipeline.Length(
        rounds=1, heavy_width=4, frames=3, light_frames=3, live_seconds=0.5, light_models=((3, 4),), live_widths=(4,)
    )
    monkeypatch.setattr(pipeline, "SHORT", tiny)
    monkeypatch.setattr(pipeline, "LIVE_AIMS", ((0.5, 0.0, math.inf),))
    model = light_model(tmp_path)
    arguments = ["--short", "--model", model, "--json", tmp_path / "figures.json", "--report", tmp_path / "report"]
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *map(str, arguments)])

    pipeline.main.main(list(map(str, arguments)), standalone_mode=False)

    machine, found = read_figures(tmp_path / "figures.json")
    assert machine.command.startswith("python benchmarks/pipeline.py --short --model negative.onnx")
    assert {"rounds", "heavy", "light", "live", "left_out"} == set(found)
    assert read_stages(found["light"]["stages"]).bottleneck in STAGES
    assert re.fullmatch(r"\d+\.\d frame periods", found["live"][0]["engine"])
    assert (tmp_path / "report" / "stages.png").read_bytes().startswith(b"\x89PNG")
    assert "The stages explain" in capsys.readouterr().out


def mistake(script: str, *arguments: object) -> tuple[int, str]:
    """Exit code and message of a command that is refused."""
    with pytest.raises((I2IError, click.ClickException)) as raised:
        importlib.import_module(script).main.main(list(map(str, arguments)), standalone_mode=False)
    error = raised.value
    return error.exit_code, error.format_message() if isinstance(error, click.ClickException) else str(error)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("pipeline --model nowhere.onnx", 4, "nowhere.onnx"),
        ("pipeline --rounds 0", 2, "--rounds"),
        ("pipeline --live-seconds 0", 2, "--live-seconds"),
        ("train_step --size 100 --models pix2pix", 2, "100x100: a U-Net needs multiples of 32"),
        ("train_step --device cuda:99", 6, "--device cuda:99: not available here"),
        ("train_step --models zebra", 2, "expected some of pix2pix,cyclegan,pix2pixhd; found 'zebra'"),
        ("train_step --rounds -1", 2, "--rounds"),
        ("graph_io --checkpoint nowhere.pt", 4, "i2i_export ended with 4: nowhere.pt"),
        ("graph_io --rounds 0", 2, "--rounds"),
        ("page_clients --clients 2 --hung 3", 2, "--hung 3: expected at most the 2 viewers"),
    ],
)
def test_a_mistake_is_one_line(words, code, said):
    found, line = mistake(*words.split())

    assert found == code
    assert said in line
    assert "\n" not in line


def test_a_model_of_label_maps_is_refused_in_a_line(tmp_path):
    card = replace(make_card((128, 128)), labels=LabelSpec(count=2))

    assert mistake("pipeline", "--model", negative_model(tmp_path / "labels.onnx", card))[0] == 4


@pytest.mark.parametrize("script", ["pipeline", "train_step", "graph_io", "page_clients", "scaling", "startup"])
def test_what_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, script):
    (tmp_path / "file").write_text("")

    assert mistake(script, "--json", tmp_path / "file" / "a.json")[0] == 5


# Clocks ---------------------------------------------------------------------------------------------------------------


def test_clocks_give_each_frame_s_spans_and_what_belongs_to_no_frame():
    clocks = Clocks()
    moments = ("fetched", "decoded", "taken", "given", "returned", "translated", "delivered", "encoded")
    for frame in range(2):
        for number, moment in enumerate(moments):
            clocks.note(moment, at=100.0 * frame + number**2)
    with clocks.outside("encode"):
        time.sleep(0.02)

    found = clocks.finish()

    assert {span: seconds.tolist() for span, seconds in found.spans.items()} == {
        "decode": [1, 1],
        "waiting for the model": [3, 3],
        "to tensor": [5, 5],
        "inference": [7, 7],
        "to picture": [9, 9],
        "waiting for the encoder": [11, 11],
        "encode": [13, 13],
    }
    assert found.totals["decode"] == 2
    assert found.totals["encode"] == pytest.approx(26.02, abs=0.015)


def test_a_frame_that_is_lost_on_the_way_is_an_error():
    clocks = Clocks()
    clocks.note("fetched")

    with pytest.raises(ValueError, match=r"expected each frame in every stage, found .*'decoded': 0"):
        clocks.finish()


def frames(decode, wait, to_tensor, inference, to_picture, wait_more, encode, closing=0.0) -> FrameTimes:
    seconds = (decode, wait, to_tensor, inference, to_picture, wait_more, encode)
    return FrameTimes(
        spans={span: np.full(10, each) for span, each in zip(SPANS, seconds, strict=True)},
        outside=dict.fromkeys(STAGES, 0.0) | {"encode": closing},
    )


def test_overlap_bottleneck_and_shares_of_a_run_that_is_known():
    # In the loop a frame takes 2 + 1 + 4 + 1 + 2 = 10 s and closing 1 s; in the pipeline the inference thread, 6 s.
    loop = frames(2, 0, 1, 4, 1, 0, 1.9, closing=1.0)
    beside = frames(2, 6, 1, 4, 1, 4, 1.9, closing=1.0)

    found = stages_of([loop, loop], [102.0, 103.0], [beside, beside], [63.0, 64.0])

    assert found.explained.median == pytest.approx((100 / 102 + 100 / 103) / 2)
    assert found.overlap_gain.median == pytest.approx((100 / 63 + 100 / 64) / 2)
    assert found.most_gain == pytest.approx((100 / 60,) * 3)
    assert found.bottleneck == "inference"
    assert found.busy["capture"].median == pytest.approx((20 / 63 + 20 / 64) / 2)
    assert found.stages["encode"].share.median == pytest.approx((20 / 102 + 20 / 103) / 2)
    assert found.stages["inference"].loop_ms == (4000, 4000)
    assert found.in_pipeline["waiting for the model"] == pytest.approx(6 / 19.9)
    assert found.pipeline_over_loop == pytest.approx(63.5 / 102.5, rel=1e-3)


def test_the_bottleneck_is_the_encoder_where_that_takes_longest():
    beside = frames(2, 6, 1, 1, 1, 4, 8)

    assert stages_of([beside], [200.0], [beside], [85.0]).bottleneck == "encode"


def test_stages_survive_their_file(run, tmp_path):
    write_figures(tmp_path / "figures.json", ENVIRONMENT, {"stages": asdict(run.stages)})

    assert read_stages(read_figures(tmp_path / "figures.json")[1]["stages"]) == run.stages


def test_the_plot_has_a_bar_for_the_loop_and_each_thread(run, tmp_path):
    pytest.importorskip("matplotlib")
    plot = draw_stages({"one": run.stages, "two": run.stages}, tmp_path / "stages.png")

    assert 1 / 3 < _height_over_width(plot.path.read_bytes()) < 1
    assert "busiest thread" in plot.reading


def _height_over_width(png: bytes) -> float:
    return int.from_bytes(png[20:24], "big") / int.from_bytes(png[16:20], "big")


# Figures --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_contestants_have_one_turn_in_each_round_and_only_rounds_after_the_warm_up_count(count, rounds, warm_up):
    names, turns = [str(number) for number in range(count)], []

    seconds = interleaved({name: lambda name=name: turns.append(name) for name in names}, rounds, warm_up=warm_up)

    assert len(turns) == count * (rounds + warm_up)
    assert all(sorted(turns[start : start + count]) == names for start in range(0, len(turns), count))
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(names, rounds)


def test_a_turn_takes_what_the_clock_says():
    hours = iter(range(100))

    assert interleaved({"one": lambda: next(hours)}, 2, warm_up=1, clock=lambda: next(hours)) == {"one": [2, 2]}


def test_ratios_are_taken_within_rounds():
    # A machine that is slower by the round changes nothing.
    found = ratio([2, 4, 8, 16], [1, 2, 4, 8])

    assert found == Ratio(2, 2, 2)
    assert ratio([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [1] * 11) == Ratio(median=6, low=2, high=10)
    # Of few rounds all count.
    assert ratio([1, 2, 3, 4, 5, 6, 7, 8, 9], [1] * 9) == Ratio(median=5, low=1, high=9)
    assert words(Ratio(0.5, 0.25, 1), ".0%") == "50% (25% to 100%)"


def test_figures_name_their_machine_and_keep_the_names_of_ratios(tmp_path):
    path = tmp_path / "deep" / "figures.json"

    write_figures(path, ENVIRONMENT, {"found": [{"gain": Ratio(2, 1, 3)}], "size": (4, 5), 7: None})

    found = {"found": [{"gain": {"median": 2, "low": 1, "high": 3}}], "size": [4, 5], "7": None}
    assert read_figures(path) == (ENVIRONMENT, found)
    assert [each.name for each in path.parent.iterdir()] == ["figures.json"]


def test_figures_that_json_cannot_say_leave_the_file_of_before(tmp_path):
    path = tmp_path / "figures.json"
    write_figures(path, ENVIRONMENT, {"gain": 1.0})

    with pytest.raises(ValueError, match="JSON"):
        write_figures(path, ENVIRONMENT, {"gain": float("nan")})

    assert read_figures(path)[1] == {"gain": 1.0}


def test_a_file_that_cannot_be_written_is_an_error_of_output(tmp_path):
    (tmp_path / "file").write_text("")

    for write in (check_output, lambda path: write_figures(path, ENVIRONMENT, {})):
        with pytest.raises(SinkError, match="file"):
            write(tmp_path / "file" / "figures.json")
    with pytest.raises(SinkError, match="expected a file to write, found a folder"):
        check_output(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"rounds": 5}'])
def test_a_file_without_figures_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "figures.json"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"figures.json: expected a JSON file of a benchmark"):
        read_figures(path)


def test_json_of_the_environment_is_whole(tmp_path):
    write_figures(tmp_path / "figures.json", ENVIRONMENT, {})

    assert json.loads((tmp_path / "figures.json").read_text())["environment"]["versions"] == ENVIRONMENT.versions
