"""The way of a user: pictures to a trained model, to ONNX, to a translated video, through the real commands."""

from __future__ import annotations

import subprocess
import sys

import av
import cv2
import numpy as np
import pytest
from commands import REPOSITORY, SHARED_DATA, environment, run
from drawings import drawing, outlines, write_pairs

from i2i_runtime.image import read_image


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Trained on drawings for a minute's fraction, exported."""
    folder = tmp_path_factory.mktemp("whole_way")
    write_pairs(folder / "data" / "train", 6)
    write_pairs(folder / "data" / "val", 2, first_seed=50)
    trained = run(
        "i2i-train", "pix2pix", "--data", folder / "data", "--out", folder / "run", "--size", 64, "--ngf", 12,
        "--ndf", 8, "--steps", 150, "--eval-every", 50,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    exported = run("i2i-export", folder / "run" / "best.pt", "-o", folder / "drawings.onnx")
    assert exported.returncode == 0, exported.stderr
    return folder / "drawings.onnx"


def facts(path) -> dict[str, object]:
    """Frames, duration and size of a video, from decoding all of it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return {
            "frames": frames,
            "duration": float(stream.duration * stream.time_base),
            "size": (stream.width, stream.height),
            "audio": len(container.streams.audio),
        }


@pytest.mark.parametrize("name", ["piccadilly_street_night_426x240.mp4", "mmtracking_street_1080p_8frames.mp4"])
def test_a_real_video_comes_out_with_every_frame_its_duration_and_its_size(engine, tmp_path, name):
    video = SHARED_DATA / "videos" / name
    if not video.exists():
        pytest.skip("shared/data/videos is not here")

    finished = run("i2i-run", "--video", video, "--engine", engine, "--output", tmp_path / "out.mp4")

    assert finished.returncode == 0, finished.stderr
    before, after = facts(video), facts(tmp_path / "out.mp4")
    assert after["duration"] == pytest.approx(before["duration"], abs=1e-3)
    assert {**after, "duration": 0} == {**before, "duration": 0}
    assert f"{before['frames']} frames in, {before['frames']} translated, 0 dropped, 0 failed" in finished.stdout


def test_a_folder_of_pictures_comes_out_translated_at_its_own_sizes(engine, tmp_path):
    sizes = {"small": (40, 50), "large": (300, 200), "same": (64, 64)}
    (tmp_path / "in").mkdir()
    for name, size in sizes.items():
        cv2.imwrite(str(tmp_path / "in" / f"{name}.jpg"), outlines(drawing(1, *size)))

    finished = run("i2i-run", "--images", tmp_path / "in", "--engine", engine, "--output", tmp_path / "out")

    assert finished.returncode == 0, finished.stderr
    assert {p.stem: read_image(p).shape[:2] for p in (tmp_path / "out").iterdir()} == sizes


def test_what_was_learnt_is_nearer_to_the_target_than_the_input_is(engine, tmp_path):
    target = drawing(0)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "x.png"), outlines(target))

    run("i2i-run", "--images", tmp_path / "in", "--engine", engine, "--output", tmp_path / "out")

    def error(image):
        return np.abs(image.astype(float) - target).mean()

    assert error(read_image(tmp_path / "out" / "x.png")) < 0.6 * error(outlines(target))


def test_the_python_interface_is_as_short_as_the_readme_says(engine):
    from i2i_runtime import Translator

    out = Translator(engine)(drawing(1, 90, 120))

    assert (out.shape, out.dtype) == ((90, 120, 3), np.uint8)


@pytest.mark.timeout(900)
def test_the_demo_ends_with_a_playable_video_and_a_comparison_strip(tmp_path):
    pytest.importorskip("skimage", reason="the demo's pictures come with scikit-image")

    finished = subprocess.run(
        [sys.executable, REPOSITORY / "docs" / "demo.py", "--out", tmp_path / "demo", "--steps", "12", "--pairs", "8"],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    assert "translated.mp4" in finished.stdout
    with av.open(str(tmp_path / "demo" / "translated.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 4 * 24 * 4
    assert read_image(tmp_path / "demo" / "strip.png").shape[1] == 3 * 256 + 2 * 4
