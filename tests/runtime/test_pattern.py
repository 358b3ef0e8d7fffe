"""The test pattern: a camera whose frames can be counted at the other end."""

from __future__ import annotations

import itertools
import threading
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_runtime.errors import UsageError
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.pacing import ticks
from i2i_runtime.sources.pattern import PatternSource, read_index
from i2i_runtime.sources.video import VideoSource


def first_frame(**settings):
    with PatternSource(**settings) as source:
        return next(iter(source))


def test_it_is_live_and_delivers_the_frames_that_were_asked_for():
    with PatternSource(size=(128, 160), fps=500, count=5) as source:
        frames = list(source)

    assert source.info.is_live
    assert (source.info.fps, source.info.frame_count) == (500, 5)
    assert [f.index for f in frames] == [read_index(f.image) for f in frames] == [0, 1, 2, 3, 4]
    assert all(f.image.shape == (128, 160, 3) and f.image.dtype == np.uint8 for f in frames)
    assert len({f.name for f in frames}) == 5


def test_every_frame_is_another_picture_and_belongs_to_its_taker():
    with PatternSource(fps=1000, count=3) as source:
        frames = list(source)

    below_the_code = [f.image[16:] for f in frames]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(below_the_code, 2))
    assert not any(np.shares_memory(a.image, b.image) for a, b in itertools.combinations(frames, 2))


def test_its_pace_is_that_of_the_clock():
    began = time.monotonic()
    with PatternSource(size=(128, 128), fps=50, count=26) as source:
        frames = list(source)

    assert frames[-1].timestamp >= Fraction(25, 50)
    assert all((f.timestamp * 50).denominator == 1 for f in frames)
    late = sorted(f.captured_at - began - float(f.timestamp) for f in frames)
    assert late[0] >= 0
    # Whatever single frames wait for: nothing adds up.
    assert late[len(late) // 2] < 1 / 50


def test_a_slow_taker_gets_no_burst_but_the_next_frame_in_time():
    beats = ticks(Fraction(100), threading.Event())

    assert next(beats) == 0
    time.sleep(0.055)  # five periods late
    late = next(beats)

    assert late >= Fraction(5, 100)
    assert next(beats) > late


def test_it_can_be_interrupted_while_it_waits():
    source = PatternSource(size=(128, 128), fps=Fraction(1, 100))
    frames = iter(source)
    next(frames)
    threading.Timer(0.05, source.interrupt).start()
    began = time.monotonic()

    assert list(frames) == []
    assert time.monotonic() - began < 30


@given(
    index=st.integers(0, 2**24 - 1),
    width=st.integers(128, 700),
    height=st.integers(128, 300),
    quality=st.integers(20, 100),
)
@settings(max_examples=60, deadline=None)
def test_the_number_survives_jpeg(index, width, height, quality):
    image = PatternSource(size=(height, width))._draw(index)

    _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])

    assert read_index(cv2.imdecode(packed, cv2.IMREAD_COLOR)) == index


def test_the_number_survives_poor_h264(tmp_path):
    path = tmp_path / "poor.mp4"
    source = PatternSource(size=(240, 320))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"crf": "38", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(60):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(source._draw(index * 1237), format="bgr24")))
        output.mux(stream.encode(None))

    with VideoSource(path) as video:
        assert [read_index(frame.image) for frame in video] == [index * 1237 for index in range(60)]


def test_frames_are_counted_through_a_pipeline_from_end_to_end(tmp_path):
    path = tmp_path / "out.mp4"
    pipeline = Pipeline(PatternSource(size=(128, 160), fps=60, count=30), lambda image: image, [VideoSink(path)])

    status = pipeline.run().status

    with VideoSource(path) as video:
        indices = [read_index(frame.image) for frame in video]
    assert indices == sorted(set(indices))
    assert len(indices) + status.not_written == status.translated
    assert status.captured == 30


@pytest.mark.parametrize("fill", [0, 127, 128, 255])
def test_a_plain_picture_has_no_number(fill):
    assert read_index(np.full((240, 320, 3), fill, np.uint8)) is None


def test_noise_small_pictures_and_wrong_bits_have_no_number():
    image = first_frame().image
    image[:16, 100:112] = 255 - image[:16, 100:112]  # the middle of a block

    assert read_index(image) is None
    assert read_index(np.zeros((16, 64, 3), np.uint8)) is None
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    assert read_index(noise) is None


def test_the_number_starts_again_after_2_to_the_24():
    assert read_index(PatternSource(size=(128, 128))._draw(2**24 + 7)) == 7


@pytest.mark.parametrize(
    ("text", "shape", "fps"),
    [
        ("test-pattern", (480, 640, 3), 30),
        ("test-pattern:1280x720", (720, 1280, 3), 30),
        ("test-pattern:1280x720@25", (720, 1280, 3), 25),
        ("test-pattern:@25", (480, 640, 3), 25),
        ("test-pattern@29.97", (480, 640, 3), Fraction(2997, 100)),
        ("test-pattern@30000/1001", (480, 640, 3), Fraction(30000, 1001)),
    ],
)
def test_what_a_user_writes_says_size_and_rate(text, shape, fps):
    with PatternSource.parse(text) as source:
        assert source.info.fps == fps
        assert next(iter(source)).image.shape == shape


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("test-pattern1280x720", "expected test-pattern or test-pattern:1280x720@25"),
        ("test-pattern:1280", "expected test-pattern or test-pattern:1280x720@25"),
        ("test-pattern@1/0", "expected test-pattern or test-pattern:1280x720@25"),
        ("test-pattern:64x64", "expected sides of 128 to 8192 pixels, found 64x64"),
        ("test-pattern:99999x720", "expected sides of 128 to 8192 pixels, found 99999x720"),
        ("test-pattern@0", "expected up to 1000 frames a second, found 0"),
        ("test-pattern@1001", "expected up to 1000 frames a second, found 1001"),
    ],
)
def test_what_makes_no_sense_is_one_line(text, complaint):
    with pytest.raises(UsageError) as error:
        PatternSource.parse(text)

    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
