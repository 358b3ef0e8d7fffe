"""Cameras through OpenCV. A video file stands in for the device, or a fake capture where a driver must answer."""

from __future__ import annotations

import itertools
import time

import cv2
import numpy as np
import pytest
from fake_cameras import FakeCapture
from videos import noisy_pictures, write_video

from i2i_runtime.errors import SourceError
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks.images import ImagesSink
from i2i_runtime.sources import capture
from i2i_runtime.sources.address import Address, Kind
from i2i_runtime.sources.base import SourceStalledError, StreamInfo
from i2i_runtime.sources.camera import CameraSource
from i2i_runtime.sources.capture import Stillness
from i2i_runtime.sources.open import open_source


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
    assert [f.name[-9:] for f in frames[:2]] == ["_00000000", "_00000001"]
    assert all(f.image.dtype == np.uint8 and f.image.shape[2] == 3 for f in frames)


def test_a_camera_that_delivers_no_more_is_an_error_that_says_for_how_long(device):
    with (
        CameraSource(device, stall_s=0.2) as source,
        pytest.raises(SourceStalledError, match=r"no frame for \d+ s; is it still plugged in"),
    ):
        list(source)


def drawn(*levels: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), level, np.uint8) for level in levels]


def frozen_at(stillness: Stillness, pictures: list[np.ndarray]) -> list[int]:
    """Which pictures, one a second, say that the driver is frozen."""
    stillness.begin()
    return [at for at, picture in enumerate(pictures) if stillness.frozen_for(picture, float(at)) is not None]


def test_a_camera_that_repeats_one_frame_for_ever_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(capture, "_FROZEN_AFTER", 0.0)
    device = write_video(tmp_path / "frozen.mp4", [*noisy_pictures(15), *drawn(*[90] * 10)], group=1)

    with CameraSource(str(device)) as source, pytest.raises(SourceStalledError, match="the same frame for"):
        list(source)


def test_a_frozen_driver_is_seen_after_two_seconds_of_one_frame_behind_noise():
    assert frozen_at(Stillness(), drawn(*range(20), 19, 19, 19)) == [22]


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param([0] * 30, id="black from the start"),
        pytest.param([1, 2, 3, *[3] * 30], id="a desktop that moves and rests"),
        pytest.param([*range(20), 19, 20, *[20] * 30], id="what has rested before it moved a little"),
    ],
)
def test_a_picture_that_rests_is_no_frozen_driver(levels):
    assert frozen_at(Stillness(), drawn(*levels)) == []


def test_a_picture_that_a_new_connection_shows_again_was_at_rest_and_is_never_taken_for_frozen_again():
    stillness = Stillness()
    first = frozen_at(stillness, drawn(*range(20), 19, 19, 19))

    assert first == [22]
    assert frozen_at(stillness, drawn(*[19] * 10, *range(50, 70), *[7] * 10)) == []


def test_another_picture_after_a_new_connection_means_that_the_driver_was_frozen():
    stillness = Stillness()

    assert frozen_at(stillness, drawn(*range(20), 19, 19, 19)) == [22]
    assert frozen_at(stillness, drawn(*range(50, 70), 69, 69, 69)) == [22]


@pytest.fixture
def webcam(monkeypatch, tmp_path):
    """The path of a device that opens as `FakeCapture`."""
    device = tmp_path / "video0"
    device.touch()
    FakeCapture.reset()
    FakeCapture.sizes = ((480, 640), (720, 1280), (240, 320))
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    return device


def first_frame(where: str) -> tuple[StreamInfo, tuple[int, ...]]:
    with open_source(Address(kind=Kind.CAMERA, where=where)) as source:
        return source.info, next(iter(source)).image.shape


def test_a_camera_is_asked_for_the_size_and_rate_behind_its_name(webcam):
    info, shape = first_frame(f"{webcam}:1280x720@15")

    assert shape == (720, 1280, 3)
    assert (info.fps, info.note) == (15, None)


def test_a_camera_that_is_asked_for_nothing_gives_what_it_gives(webcam):
    info, shape = first_frame(str(webcam))

    assert (shape, info.note, FakeCapture.fourcc) == ((480, 640, 3), None, "YUYV")


@pytest.mark.parametrize(("size", "fourcc"), [("1280x720", "MJPG"), ("320x240", "YUYV")])
def test_large_pictures_are_asked_for_as_jpeg_for_which_usb_is_fast_enough(webcam, size, fourcc):
    first_frame(f"{webcam}:{size}")

    assert FakeCapture.fourcc == fourcc


def test_a_camera_that_gives_another_size_or_rate_says_so(webcam):
    info, shape = first_frame(f"{webcam}:1920x1080@60")

    assert shape == (480, 640, 3)
    assert info.note == (
        "asked for 1920x1080, the camera gives 640x480; asked for 60 frames a second, the camera gives 30"
    )


@pytest.mark.parametrize("where", ["99:1280x720@30", "99"])
def test_a_camera_that_is_not_there_is_named_without_its_size(where):
    with pytest.raises(SourceError, match=r"^camera 99: not found or in use by another program; cameras here:"):
        open_source(where)


def test_a_size_that_is_none_is_an_error_that_shows_one():
    with pytest.raises(SourceError, match=r"camera 0:1280: expected a number .* such as 0:1280x720@30"):
        open_source(Address(kind=Kind.CAMERA, where="0:1280"))


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
