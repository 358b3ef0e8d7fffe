"""Cameras through OpenCV. A video file stands in for the device: OpenCV reads it through the same calls."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from videos import moving_pictures, write_video

from i2i_runtime.errors import SourceError
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks.images import ImagesSink
from i2i_runtime.sources import camera
from i2i_runtime.sources.camera import CameraSource


@pytest.fixture
def device(tmp_path):
    return str(write_video(tmp_path / "camera.mp4", moving_pictures(20)))


def test_a_camera_is_live_and_stamps_each_frame_with_the_time_it_came(device):
    with CameraSource(device) as source:
        began = time.monotonic()
        frames = list(itertools.islice(source, 5))

    assert source.info.is_live
    assert [f.index for f in frames] == [0, 1, 2, 3, 4]
    assert all(began <= f.captured_at <= time.monotonic() for f in frames)
    assert all(a.timestamp < b.timestamp for a, b in itertools.pairwise(frames))
    assert all(f.image.dtype == np.uint8 and f.image.shape[2] == 3 for f in frames)


def test_a_camera_that_delivers_no_more_is_an_error_that_says_for_how_long(device, monkeypatch):
    monkeypatch.setattr(camera, "_GIVE_UP_AFTER", 0.2)

    with (
        CameraSource(device) as source,
        pytest.raises(SourceError, match=r"no frame for \d+ s; is it still plugged in"),
    ):
        list(source)


def test_a_slow_model_drops_frames_of_a_camera_and_accounts_for_each(device, tmp_path, monkeypatch):
    monkeypatch.setattr(camera, "_GIVE_UP_AFTER", 0.2)

    def slow(image):
        time.sleep(0.1)
        return image

    pipeline = Pipeline(CameraSource(device), slow, [ImagesSink(tmp_path / "out")])
    with pytest.raises(SourceError):
        pipeline.run()

    status = pipeline.status()
    assert status.captured == 20 == status.translated + status.dropped + status.failed
    assert status.dropped > 0
    assert len(list((tmp_path / "out").iterdir())) == status.translated


def test_a_device_that_does_not_exist_is_named_with_the_cameras_that_do():
    with pytest.raises(SourceError, match=r"/dev/video-none: expected a number or a device.*cameras here:"):
        CameraSource("/dev/video-none")
