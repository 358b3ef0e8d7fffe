"""`i2i-run` as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import command_line, environment, run, start
from onnx_models import make_card, negative_model
from videos import moving_pictures, noisy_pictures, read_video, scribble, write_video

import i2i_runtime


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def write_pictures(folder: Path, **colours: tuple[int, int, int]) -> Path:
    """Write `name_suffix=colour` as FOLDER/name.suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in colours.items():
        stem, _, suffix = name.rpartition("_")
        cv2.imwrite(str(folder / f"{stem}.{suffix}"), picture(colour))
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    return negative_model(tmp_path / "negative.onnx", make_card(None))


@pytest.fixture
def slow_model(tmp_path) -> Path:
    """Takes long enough that a video of 600 frames can be interrupted."""
    return negative_model(tmp_path / "slow.onnx", make_card((512, 512)))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.fault(13)
def test_a_video_is_translated_with_its_sound(tmp_path, model):
    source = write_video(tmp_path / "in.mp4", audio="aac")

    finished = run("i2i-run", "--video", source, "--engine", model, "--output", tmp_path / "out.mp4")

    assert finished.returncode == 0, finished.stderr
    result = read_video(tmp_path / "out.mp4")
    assert len(result.pictures) == 50
    assert result.audio_packets == read_video(source).audio_packets
    expected = 255 - moving_pictures(50)[25].astype(int)
    assert np.abs(result.pictures[25] - expected).mean() < 5


def test_a_run_reports_what_happened_to_every_frame(tmp_path, model):
    source = write_video(tmp_path / "in.mp4")

    finished = run("i2i-run", "--video", source, "--engine", model, "--output", tmp_path / "out.mp4")

    first, last = finished.stdout.splitlines()
    assert first.startswith("50 frames in, 50 translated, 0 dropped, 0 failed in ")
    assert last == f"50 frames in {tmp_path / 'out.mp4'}"
    assert finished.stderr == "negative: any size, ONNX Runtime CPU\n"


def test_a_folder_of_pictures_becomes_pictures_of_the_same_names(tmp_path, model):
    photos = write_pictures(tmp_path / "photos", cat_png=(10, 20, 30), dog_jpg=(40, 50, 60), bird_bmp=(70, 80, 90))

    finished = run("i2i-run", "--images", photos, "--engine", model, "--output", tmp_path / "results")

    assert finished.returncode == 0, finished.stderr
    assert names(tmp_path / "results") == ["bird.png", "cat.png", "dog.png"]
    assert np.array_equal(cv2.imread(str(tmp_path / "results" / "cat.png")), picture((245, 235, 225)))


@pytest.mark.fault(15)
def test_pictures_of_one_stem_keep_both_results(tmp_path, model):
    photos = write_pictures(tmp_path / "photos", cat_png=(10, 20, 30), cat_bmp=(40, 50, 60), dog_png=(0, 0, 0))

    run("i2i-run", "--images", photos, "--engine", model, "--output", tmp_path / "results")

    assert names(tmp_path / "results") == ["cat.bmp.png", "cat.png.png", "dog.png"]


def test_pictures_of_one_name_in_two_folders_keep_both_results(tmp_path, model):
    write_pictures(tmp_path / "photos" / "a", cat_png=(10, 20, 30))
    write_pictures(tmp_path / "photos" / "b", cat_png=(40, 50, 60))

    run("i2i-run", "--images", tmp_path / "photos" / "*" / "*.png", "--engine", model, "--output", tmp_path / "results")

    assert names(tmp_path / "results") == ["cat.png.png", "cat.png_2.png"]
    assert np.array_equal(cv2.imread(str(tmp_path / "results" / "cat.png_2.png")), picture((215, 205, 195)))


def test_a_glob_pattern_chooses_pictures(tmp_path, model):
    photos = write_pictures(tmp_path / "photos", cat_png=(1, 2, 3), dog_png=(1, 2, 3), cow_png=(1, 2, 3))

    run("i2i-run", "--images", photos / "c*.png", "--engine", model, "--output", tmp_path / "results")

    assert names(tmp_path / "results") == ["cat.png", "cow.png"]


def test_one_picture_is_translated(tmp_path, model):
    photos = write_pictures(tmp_path / "photos", cat_png=(1, 2, 3), dog_png=(1, 2, 3))

    run("i2i-run", "--images", photos / "cat.png", "--engine", model, "--output", tmp_path / "results")

    assert names(tmp_path / "results") == ["cat.png"]


def test_pictures_become_a_video_in_the_order_a_person_would_count_them(tmp_path, model):
    photos = write_pictures(
        tmp_path / "photos", img2_png=(100, 100, 100), img10_png=(50, 50, 50), img1_png=(200, 200, 200)
    )

    run("i2i-run", "--images", photos, "--engine", model, "--output", tmp_path / "out.mp4")

    levels = [round(float(p.mean()) / 5) * 5 for p in read_video(tmp_path / "out.mp4").pictures]
    assert levels == [55, 155, 205]


def test_a_video_becomes_numbered_pictures(tmp_path, model):
    source = write_video(tmp_path / "in.mp4", moving_pictures(3))

    run("i2i-run", "--video", source, "--engine", model, "--output", tmp_path / "frames")

    assert names(tmp_path / "frames") == ["in_000000.png", "in_000001.png", "in_000002.png"]


def test_two_outputs_are_made_in_one_run(tmp_path, model):
    source = write_video(tmp_path / "in.mp4", moving_pictures(3))

    run("i2i-run", "--video", source, "--engine", model, "--output", tmp_path / "a.mkv", "--output", tmp_path / "b")

    assert len(read_video(tmp_path / "a.mkv").pictures) == 3
    assert len(names(tmp_path / "b")) == 3


def test_side_by_side_shows_input_and_result(tmp_path, model):
    photos = write_pictures(tmp_path / "photos", cat_png=(10, 20, 30))

    run("i2i-run", "--images", photos, "--engine", model, "--output", tmp_path / "results", "--side-by-side")

    both = cv2.imread(str(tmp_path / "results" / "cat.png"))
    assert np.array_equal(both, np.hstack((picture((10, 20, 30)), picture((245, 235, 225)))))


def test_a_model_without_a_card_runs_with_a_note(tmp_path):
    photos = write_pictures(tmp_path / "photos", cat_png=(10, 20, 30))
    bare = negative_model(tmp_path / "bare.onnx", bare=True)

    finished = run("i2i-run", "--images", photos, "--engine", bare, "--output", tmp_path / "results")

    assert finished.returncode == 0
    assert "note: bare.onnx carries no card: assuming RGB values from -1 to 1" in finished.stderr


def test_flags_state_what_a_model_without_a_card_expects(tmp_path):
    photos = write_pictures(tmp_path / "photos", cat_png=(10, 20, 30))
    bare = negative_model(tmp_path / "bare.onnx", bare=True)

    finished = run(
        "i2i-run", "--images", photos, "--engine", bare, "--output", tmp_path / "r", "--value-range", "-2,2",
        "--colour", "BGR",
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    assert "assuming BGR values from -2 to 2" in finished.stderr


@pytest.mark.fault(16)
def test_a_truncated_picture_among_good_ones_is_skipped_and_named(tmp_path, model):
    photos = write_pictures(tmp_path / "photos", cat_png=(10, 20, 30), cut_jpg=(1, 2, 3), dog_png=(40, 50, 60))
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:-50])

    finished = run("i2i-run", "--images", photos, "--engine", model, "--output", tmp_path / "results")

    assert finished.returncode == 0
    assert f"skipped: {photos / 'cut.jpg'}: truncated JPEG (its end marker is missing)\n" in finished.stderr
    assert finished.stdout.startswith("2 frames in, 2 translated")
    assert names(tmp_path / "results") == ["cat.png", "dog.png"]


@pytest.mark.fault(11)
def test_frames_damaged_in_one_way_are_one_line_with_their_number(tmp_path, model):
    source = write_video(tmp_path / "in.mp4", noisy_pictures(20), group=1)
    scribble(source, first=5, count=3)

    finished = run("i2i-run", "--video", source, "--engine", model, "--output", tmp_path / "out.mp4")

    assert finished.returncode == 0
    assert finished.stdout.startswith("17 frames in, 17 translated")
    assert len(re.findall(r"skipped: .*in.mp4: a damaged frame \(.*\) \(3 times\)", finished.stderr)) == 1


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.fault(22, 23)
def test_a_signal_in_the_middle_of_a_video_leaves_a_playable_file(tmp_path, slow_model, number, exit_code):
    source = write_video(tmp_path / "in.mp4", moving_pictures(600), audio="aac")
    target, partial = tmp_path / "out.mp4", tmp_path / "out.partial.mp4"
    process = start("i2i-run", "--video", source, "--engine", slow_model, "--output", target)
    while not (partial.exists() and partial.stat().st_size > 2048) and process.poll() is None:  # a second of video
        time.sleep(0.02)

    process.send_signal(number)
    signalled = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    took = time.monotonic() - signalled

    finished = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    frames = len(read_video(target).pictures)
    assert process.returncode == exit_code
    assert took < 5
    assert 25 <= frames < 600
    assert finished.stderr.splitlines()[-1] == f"stopped; {frames} frames in {target}"
    assert "error" not in finished.stderr
    assert stdout.splitlines()[-1] == f"{frames} frames in {target}"
    assert f", {frames} translated, " in stdout
    assert not partial.exists()


def test_when_the_reader_of_our_output_leaves_no_word_is_said():
    command = command_line("i2i-run", "--help")

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        process.stdout.close()
        stderr = process.stderr.read()

    assert process.returncode == 1
    assert stderr == b""


def test_a_run_needs_no_standard_output(tmp_path, model):
    photos = write_pictures(tmp_path / "photos", cat_png=(10, 20, 30))
    command = command_line("i2i-run", "--images", photos, "--engine", model, "--output", tmp_path / "results")

    finished = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], env=environment(), capture_output=True)

    assert finished.returncode == 0
    assert b"Traceback" not in finished.stderr
    assert names(tmp_path / "results") == ["cat.png"]


def test_help_shows_every_flag_and_examples():
    finished = run("i2i-run", "--help")

    assert finished.returncode == 0
    assert "i2i-run --camera 0 --engine zebra.onnx --show" in finished.stdout
    flags = ("--engine", "--video", "--camera", "--images", "--output", "--show", "--side-by-side", "--fit", "--device")
    assert [flag for flag in flags if flag not in finished.stdout] == []


def test_the_version_is_told():
    assert run("i2i-run", "--version").stdout == f"i2i-run, version {i2i_runtime.__version__}\n"
