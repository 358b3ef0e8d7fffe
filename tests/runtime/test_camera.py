"""Cameras through OpenCV. A video file stands in for the device: OpenCV reads it through the same calls."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from videos import noisy_pictures, write_video

from i2i_runtime.errors import SourceError
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks.images import ImagesSink
from i2i_runtime.sources import capture
from i2i_runtime.sources.base import SourceStalledError
from i2i_runtime.sources.camera import CameraSource


@pytest.fixture
def device(tmp_path):
    return str(write_video(tmp_path / "camera.mp4", noisy_pictures(20)))


def test_a_camera_is_live_and_stamps_each_frame_with_the_time_it_came(device):
    with CameraSource(device) as source:
        began = time.monotonic()
        frames = list(itertools.islice(source, 5))

    assert source.info.is_live
    assert (source.info.fps, source.info.note) == (25, None)
    assert [f.index for f in frames] == [0, 1, 2, 3, 4]
    assert all(began <= f.captured_at <= time.monotonic() for f in frames)
    assert all(a.timestamp < b.timestamp for a, b in itertools.pairwise(frames))
    assert all(f.image.dtype == np.uint8 and f.image.shape[2] == 3 for f in frames)


def test_a_camera_that_delivers_no_more_is_an_error_that_says_for_how_long(device):
    with (
        CameraSource(device, stall_s=0.2) as source,
        pytest.raises(SourceStalledError, match=r"no frame for \d+ s; is it still plugged in"),
    ):
        list(source)


def test_a_camera_that_repeats_one_frame_for_ever_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(capture, "_FROZEN_AFTER", 0.0)
    device = write_video(tmp_path / "frozen.mp4", [np.full((48, 64, 3), 90, np.uint8)] * 20)

    with CameraSource(str(device)) as source, pytest.raises(SourceStalledError, match="the same frame for"):
        list(source)


def test_an_interrupt_ends_the_wait_for_a_camera(device):
    with CameraSource(device, stall_s=60) as source:
        frames = iter(source)
        for _ in range(20):
            next(frames)
        source.interrupt()

        assert list(frames) == []


def test_a_slow_model_drops_frames_of_a_camera_and_accounts_for_each(device, tmp_path):
    def slow(image):
        time.sleep(0.1)
        return image

    pipeline = Pipeline(CameraSource(device, stall_s=0.2), slow, [ImagesSink(tmp_path / "out")])
    with pytest.raises(SourceError):
        pipeline.run()

    status = pipeline.status()
    assert status.captured == 20 == status.translated + status.dropped + status.failed
    assert status.dropped > 0
    assert len(list((tmp_path / "out").iterdir())) == status.translated


def test_a_device_that_does_not_exist_is_named_with_the_cameras_that_do():
    with pytest.raises(SourceError, match=r"/dev/video-none: expected a number or a device.*cameras here:"):
        CameraSource("/dev/video-none")
