"""What a training leaves: metrics, samples, TensorBoard events; and nothing where another process speaks."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
from drawings import drawing

from i2i_runtime.errors import SinkError, UsageError
from i2i_trainer.record import Recorder


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rows(count: int = 2) -> list[list[np.ndarray]]:
    return [[drawing(3 * n), drawing(3 * n + 1), drawing(3 * n + 2)] for n in range(count)]


TITLES = ("input", "output", "target")


def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return accumulator


def scalars(run, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(name)]


def test_metrics_are_lines_of_json(tmp_path):
    with Recorder(tmp_path, 0, 9) as recorder:
        recorder.log(1, {"G": 1.5, "stage": "global"})
        recorder.log(2, {"G": 0.5})

    assert metrics(tmp_path) == [{"step": 1, "G": 1.5, "stage": "global"}, {"step": 2, "G": 0.5}]
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_training_drops_what_came_after_its_checkpoint(tmp_path):
    lines = ['{"step": 1}', '{"step": 2}', '{"step": 3}', "7", '{"step": 2, "G"']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))

    with Recorder(tmp_path, 2, 9) as recorder:
        recorder.log(3, {"G": 1.0})

    assert metrics(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3, "G": 1.0}]


def test_a_sample_is_a_grid_with_its_page(tmp_path):
    with Recorder(tmp_path, 0, 9) as recorder:
        recorder.sample(5, rows(), TITLES)

    sheet = cv2.imread(str(tmp_path / "samples" / "step_0000005.png"))
    assert np.array_equal(sheet[24:88, 68:132], drawing(1))
    assert 'src="samples/step_0000005.png"' in (tmp_path / "index.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "samples"]


def test_tensorboard_reads_scalars_and_grids(tmp_path):
    with Recorder(tmp_path, 0, 9, tensorboard=True) as recorder:
        recorder.log(1, {"G": 1.5, "epoch": 1, "stage": "global"})
        recorder.log(2, {"G": 0.5, "epoch": 1, "stage": "global"})
        recorder.sample(2, rows(), TITLES)

    read = events(tmp_path)
    assert scalars(tmp_path, "G") == [(1, 1.5), (2, 0.5)]
    assert sorted(read.Tags()["scalars"]) == ["G", "epoch"]
    (event,) = read.Images("samples")
    shown = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert event.step == 2
    assert np.array_equal(shown, cv2.imread(str(tmp_path / "samples" / "step_0000002.png")))


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    with Recorder(tmp_path, 0, 9, tensorboard=True) as recorder:
        for step in (1, 2, 3, 4):
            recorder.log(step, {"G": float(step)})
    with Recorder(tmp_path, 2, 9, tensorboard=True) as recorder:
        recorder.log(3, {"G": 30.0})

    assert scalars(tmp_path, "G") == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [(line["step"], line["G"]) for line in metrics(tmp_path)] == scalars(tmp_path, "G")


def test_without_tensorboard_its_extra_is_named(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    with pytest.raises(UsageError, match=r"^--tensorboard: needs TensorBoard; pip install 'i2i\[tensorboard\]'$"):
        Recorder(tmp_path, 0, 9, tensorboard=True)


def test_a_place_that_tensorboard_cannot_write_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")

    with pytest.raises(SinkError, match=r"tensorboard: cannot be written"):
        Recorder(tmp_path, 0, 9, tensorboard=True)


def test_files_that_cannot_be_written_are_named(tmp_path):
    with Recorder(tmp_path, 0, 9) as recorder:
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(SinkError, match=r"metrics\.jsonl: cannot be written"):
            recorder.log(1, {"G": 1.0})
        (tmp_path / "index.html").mkdir()
        with pytest.raises(SinkError, match=r"index\.html: cannot be written"):
            recorder.write("index.html", "")


@pytest.mark.parametrize("exists", [False, True])
def test_a_silent_recorder_writes_and_prints_nothing(tmp_path, capfd, exists):
    run = tmp_path / "run"
    if exists:  # the first process made it
        (run / "samples").mkdir(parents=True)

    with Recorder(run, 0, 9, tensorboard=True, silent=True) as recorder:
        recorder.say("a line")
        recorder.log(1, {"G": 1.0})
        recorder.write("config.toml", "")
        recorder.progress(9, {"G": 1.0}, 1.0)
        recorder.sample(1, rows(), TITLES)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert run.exists() == exists
    assert capfd.readouterr() == ("", "")


def test_lines_appear_as_they_are(tmp_path, capfd):
    with Recorder(tmp_path, 0, 9) as recorder:
        recorder.say("step 3: [val_L1] 0.5")

    assert capfd.readouterr().err == "step 3: [val_L1] 0.5\n"
