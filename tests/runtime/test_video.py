"""Video in, video out: every frame, at its time, in its colours, with its sound, whatever happens on the way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from commands import SHARED_DATA, environment
from videos import (
    count_playable,
    moving_pictures,
    noisy_pictures,
    read_video,
    scribble,
    turn,
    unknown,
    write_sound,
    write_video,
)

from i2i_runtime.errors import SinkError, SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.pipeline import Pipeline, Result
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.sources.video import VideoSource

FRAME = 1 / 25
"""Seconds."""


def copy_video(source: Path, target: Path) -> Result:
    """Send every frame from the source to the sink as it is."""
    return Pipeline(VideoSource(source), lambda image: image, [VideoSink(target)]).run()


def read_frames(path: Path) -> tuple[list[Frame], list[str]]:
    with VideoSource(path) as source:
        return list(source), source.skipped


def write_frames(path: Path, images: list[np.ndarray], *, fps: int | None = 25, times: list[Fraction] | None = None):
    """Give a sink the images, with times or without."""
    with VideoSink(path) as sink:
        sink.start(StreamInfo(name="test", is_live=False, fps=None if fps is None else Fraction(fps)))
        for index, image in enumerate(images):
            timestamp = times[index] if times else None
            sink.write(Frame(image=image, index=index, captured_at=0.0, name=str(index), timestamp=timestamp))


def mean_difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return float(np.abs(np.stack(a).astype(int) - np.stack(b).astype(int)).mean())


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two seconds, 64x48, 25 frames a second, with sound."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", audio="aac")


# Reading


def test_a_video_says_what_it_is_before_its_first_frame(clip):
    with VideoSource(clip) as source:
        assert source.info == StreamInfo(name="clip", is_live=False, fps=Fraction(25), frame_count=50, audio_file=clip)


def test_every_frame_is_read_with_its_number_name_and_time(clip):
    frames, skipped = read_frames(clip)

    assert [f.index for f in frames] == list(range(50))
    assert [f.timestamp for f in frames] == [Fraction(i, 25) for i in range(50)]
    assert (frames[0].name, frames[49].name) == ("clip_000000", "clip_000049")
    assert skipped == []


def test_pictures_are_read_in_colour_and_in_order(clip):
    frames, _ = read_frames(clip)

    assert mean_difference([f.image for f in frames], moving_pictures(50)) < 3


@pytest.mark.parametrize(
    ("size", "converted", "tagged"),
    [
        pytest.param((240, 320), Colorspace.ITU601, 2, id="SD untagged is BT.601"),
        pytest.param((720, 1280), Colorspace.ITU709, 2, id="HD untagged is BT.709"),
        pytest.param((240, 320), Colorspace.ITU709, 1, id="SD tagged BT.709"),
        pytest.param((720, 1280), Colorspace.ITU601, 5, id="HD tagged BT.601 of PAL"),
        pytest.param((720, 1280), Colorspace.ITU601, 6, id="HD tagged BT.601 of NTSC"),
        pytest.param(
            (240, 320),
            getattr(Colorspace, "BT2020", None),
            9,
            id="tagged BT.2020",
            marks=pytest.mark.skipif(not hasattr(Colorspace, "BT2020"), reason="PyAV up to 17 cannot write BT.2020"),
        ),
    ],
)
def test_colours_are_those_of_the_standard_a_video_is_in(tmp_path, size, converted, tagged):
    # Pure green: BT.601 and BT.709 are 40 grey levels apart here.
    image = np.full((*size, 3), (0, 220, 0), np.uint8)
    path = write_video(tmp_path / "green.mp4", [image] * 2, colour=(converted, tagged))

    frames, _ = read_frames(path)

    assert np.abs(frames[0].image.astype(int) - image).max() <= 6


def test_a_video_filmed_with_a_turned_phone_is_turned_upright(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 255
    path = write_video(tmp_path / "phone.mp4", [image] * 2)
    turn(path)

    frames, _ = read_frames(path)

    # Turned clockwise, what was top left is top right.
    upright = frames[0].image
    assert upright.shape == (64, 48, 3)
    assert upright[:32, 24:].mean() > 245
    assert upright[32:].mean() < 10


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mov"])
def test_times_begin_at_zero_whenever_the_file_begins(tmp_path, suffix):
    milliseconds = [5000 + 40 * i for i in range(20)]
    path = write_video(tmp_path / f"late.{suffix}", moving_pictures(20), milliseconds=milliseconds)

    frames, _ = read_frames(path)

    assert [float(f.timestamp) for f in frames] == pytest.approx([0.04 * i for i in range(20)], abs=0.001)


def test_a_scribbled_region_costs_the_damaged_frames_only(tmp_path):
    path = write_video(tmp_path / "clip.mp4", noisy_pictures(40), group=1)
    scribble(path, first=20, count=3)

    frames, skipped = read_frames(path)

    good = [*range(20), *range(23, 40)]
    assert [f.timestamp for f in frames] == [Fraction(i, 25) for i in good]
    assert mean_difference([f.image for f in frames], [noisy_pictures(40)[i] for i in good]) < 10
    assert len(skipped) == 3
    assert "clip.mp4: a damaged frame (" in skipped[0]


def test_frames_that_the_decoder_patches_up_are_damaged_too(tmp_path):
    path = write_video(tmp_path / "clip.mp4", noisy_pictures(40), group=12)
    scribble(path, first=14, count=2)

    frames, skipped = read_frames(path)

    assert skipped
    assert len(frames) + len(skipped) == 40


@pytest.mark.parametrize(
    ("suffix", "audio"), [("mkv", None), ("mkv", "aac"), ("mp4", None), ("mp4", "aac"), ("mov", "aac"), ("avi", None)]
)
def test_a_file_that_is_cut_in_the_middle_counts_as_damaged_once(tmp_path, suffix, audio):
    path = write_video(tmp_path / f"cut.{suffix}", noisy_pictures(60), audio=audio, faststart=suffix in ("mp4", "mov"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])

    with VideoSource(path) as source:
        list(source)

        breaks = [line for line in source.skipped if "the file breaks off" in line]
        assert len(breaks) == 1
        assert source.health().decode_errors == len(source.skipped) <= 2


def test_how_much_of_a_file_is_missing_is_said(tmp_path):
    path = write_video(tmp_path / "cut.mkv", noisy_pictures(100), group=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    _, skipped = read_frames(path)

    assert re.search(r"cut.mkv: the file breaks off \((1\.9|2\.\d) s of the 4.0 s it states are missing\)", skipped[-1])


@pytest.mark.parametrize(
    ("suffix", "audio"),
    [("mkv", None), ("mkv", "aac"), ("mp4", None), ("mp4", "aac"), ("mov", "aac"), ("ts", None), ("ts", "aac"),
     ("avi", None), ("webm", None), ("webm", "libopus")],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 50])
def test_a_whole_file_does_not_break_off(tmp_path, suffix, audio, count):
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = write_video(tmp_path / f"whole.{suffix}", moving_pictures(count), audio=audio, codec=codec)

    assert read_frames(path)[1] == []


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_video_shorter_than_its_sound_does_not_break_off(tmp_path, suffix):
    path = write_video(tmp_path / f"song.{suffix}", audio="aac", sound_seconds=6.0)

    assert read_frames(path)[1] == []


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_video_of_variable_rate_does_not_break_off(tmp_path, suffix):
    milliseconds = [0, 40, 80, 500, 510, 517, 900, 1900, 1930]
    path = write_video(tmp_path / f"slides.{suffix}", moving_pictures(9), milliseconds=milliseconds)

    assert read_frames(path)[1] == []


@pytest.mark.parametrize(("off", "damage"), [(2, 0), (5, 1)])
def test_a_stated_length_that_is_a_little_wrong_is_no_damage(tmp_path, off, damage):
    path = write_video(tmp_path / "clip.mkv", moving_pictures(100))
    stated, wrong = b"00:00:04.000000000", f"00:00:04.{off * 40:03d}000000".encode()
    path.write_bytes(path.read_bytes().replace(stated, wrong))

    assert len(read_frames(path)[1]) == damage


def test_a_video_without_a_decoder_is_refused_and_named(tmp_path):
    with pytest.raises(SourceError, match=r"odd.mkv: no decoder for its video codec in this FFmpeg; convert it"):
        VideoSource(unknown(tmp_path / "odd.mkv"))


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_truncated_video_keeps_what_came_before_the_cut(tmp_path, suffix):
    path = write_video(tmp_path / f"cut.{suffix}", noisy_pictures(60), group=1, faststart=suffix == "mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])

    frames, _ = read_frames(path)

    assert 30 <= len(frames) <= 37
    assert mean_difference([f.image for f in frames[:30]], noisy_pictures(60)[:30]) < 10


def test_what_the_decoder_holds_back_when_a_file_breaks_off_is_kept(tmp_path):
    path = write_video(tmp_path / "broken.mp4", noisy_pictures(60), faststart=True)
    data = bytearray(path.read_bytes())
    size_of_frame_40 = data.index(b"stsz") + 16 + 4 * 40
    data[size_of_frame_40 : size_of_frame_40 + 4] = b"\x36\0\0\0"  # a size that FFmpeg gives up at
    path.write_bytes(data)

    frames, skipped = read_frames(path)

    assert len(frames) == 40
    assert len(skipped) == 1
    assert "broken.mp4: the file breaks off (" in skipped[0]


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "empty.mp4: not a readable video"),
        ("text.mp4", b"no video at all\n" * 50, "text.mp4: not a readable video"),
        ("cut.mp4", b"\0\0\0\x20ftypisom", "cut.mp4: not a readable video"),
    ],
)
def test_what_is_no_video_is_refused_and_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match=message):
        VideoSource(tmp_path / name)


def test_a_missing_video_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"none.mp4: no such video file"):
        VideoSource(tmp_path / "none.mp4")


def test_a_file_with_sound_only_is_refused(tmp_path):
    write_sound(tmp_path / "song.mp4")

    with pytest.raises(SourceError, match=r"song.mp4: expected a video stream, found none"):
        VideoSource(tmp_path / "song.mp4")


def test_a_video_without_one_good_frame_is_an_error(tmp_path):
    path = write_video(tmp_path / "bad.mp4", noisy_pictures(5), group=1)
    scribble(path, first=0, count=5)

    with pytest.raises(SourceError, match=r"bad.mp4: not one frame could be decoded"):
        read_frames(path)


# Writing


def test_a_copied_video_has_the_frames_size_duration_and_times_of_its_source(clip, tmp_path):
    result = copy_video(clip, tmp_path / "out.mp4")

    source, target = read_video(clip), read_video(tmp_path / "out.mp4")
    assert result.status.captured == result.status.translated == len(target.pictures) == 50
    assert target.pictures[0].shape == source.pictures[0].shape
    assert target.duration == pytest.approx(source.duration, abs=FRAME)
    assert target.times == pytest.approx(source.times, abs=0.001)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_variable_frame_rate_is_kept(tmp_path, suffix):
    milliseconds = [0, 40, 80, 500, 510, 517, 900, 1900, 1930]
    source = write_video(tmp_path / "in.mkv", moving_pictures(9), milliseconds=milliseconds)

    copy_video(source, tmp_path / f"out.{suffix}")

    assert read_video(tmp_path / f"out.{suffix}").times == pytest.approx([m / 1000 for m in milliseconds], abs=0.001)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60), Fraction(1, 5)])
def test_broadcast_and_time_lapse_rates_are_exact(tmp_path, rate):
    times = [index / rate for index in range(20)]

    with VideoSink(tmp_path / "out.mp4") as sink:
        sink.start(StreamInfo(name="test", is_live=False, fps=rate))
        for index, image in enumerate(moving_pictures(20)):
            sink.write(Frame(image=image, index=index, captured_at=0.0, name="", timestamp=times[index]))

    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert [frame.pts * stream.time_base for frame in container.decode(stream)] == times
        assert stream.average_rate == rate


def test_frames_without_times_follow_at_the_rate(tmp_path):
    write_frames(tmp_path / "out.mp4", moving_pictures(10), fps=10)

    assert read_video(tmp_path / "out.mp4").times == pytest.approx([i / 10 for i in range(10)])


def test_frames_without_times_or_rate_follow_at_30_a_second(tmp_path):
    write_frames(tmp_path / "out.mp4", moving_pictures(10), fps=None)

    assert read_video(tmp_path / "out.mp4").times == pytest.approx([i / 30 for i in range(10)], abs=0.001)


def test_times_that_run_backwards_are_pushed_forward(tmp_path):
    times = [Fraction(t, 25) for t in (0, 1, 0, 3, 2, 5)]

    write_frames(tmp_path / "out.mp4", moving_pictures(6), times=times)

    written = read_video(tmp_path / "out.mp4").times
    assert len(written) == 6
    assert written == sorted(set(written))


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_sound_that_players_know_is_copied_bit_for_bit(clip, tmp_path, suffix):
    copy_video(clip, tmp_path / f"out.{suffix}")

    source, target = read_video(clip), read_video(tmp_path / f"out.{suffix}")
    assert target.audio_codec == "aac"
    assert target.audio_packets == source.audio_packets


@pytest.mark.parametrize("codec", ["libmp3lame", "ac3", "libopus", "flac", "alac"])
def test_other_known_sound_is_copied_bit_for_bit_too(tmp_path, codec):
    source = write_video(tmp_path / "in.mkv", audio=codec)

    copy_video(source, tmp_path / "out.mp4")

    assert read_video(tmp_path / "out.mp4").audio_packets == read_video(source).audio_packets


@pytest.mark.parametrize(
    ("codec", "suffix", "target"),
    [
        pytest.param("pcm_s16le", "mkv", "mp4", id="PCM"),
        pytest.param("pcm_alaw", "mov", "mp4", id="G.711"),
        pytest.param("mp2", "mpg", "mkv", id="broadcast MP2"),
        pytest.param("libopus", "mkv", "mov", id="Opus, which MOV cannot hold"),
        pytest.param("flac", "mkv", "mov", id="FLAC, which MOV cannot hold"),
        pytest.param("aac", "ts", "mp4", id="AAC without a header"),
    ],
)
def test_other_sound_becomes_aac_of_the_same_length(tmp_path, codec, suffix, target):
    source = write_video(tmp_path / f"in.{suffix}", audio=codec)

    copy_video(source, tmp_path / f"out.{target}")

    sound = read_video(tmp_path / f"out.{target}")
    assert sound.audio_codec == "aac"
    assert sound.audio_seconds == pytest.approx(2.0, abs=0.1)


def loudness(path: Path) -> np.ndarray:
    """Root mean square of the sound in each tenth of a second from the start of the file, full scale 1."""
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / av.time_base
        resampler = av.AudioResampler(format="flt", layout="mono", rate=8000)
        samples = np.zeros(8000 * 10)
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                at = max(0, round((float(part.time) - start) * 8000))
                samples[at : at + part.samples] = part.to_ndarray()[0]
    return np.sqrt((samples.reshape(-1, 800) ** 2).mean(axis=1))


def test_silence_in_a_sound_track_that_is_encoded_again_stays_where_it_was(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream("pcm_s16le", rate=48000, layout="mono")
        for index, picture in enumerate(moving_pictures(75)):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for start in [*range(0, 48000, 960), *range(96000, 144000, 960)]:  # silent from 1 s to 2 s
            frame = av.AudioFrame.from_ndarray(np.full((1, 960), 8000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            output.mux(sound.encode(frame))

    copy_video(path, tmp_path / "out.mp4")

    is_loud = loudness(tmp_path / "out.mp4") > 0.1
    assert is_loud[[3, 6, 23, 26]].all()
    assert not is_loud[[13, 16]].any()


def test_sound_and_pictures_begin_as_far_apart_as_they_did(tmp_path):
    milliseconds = [2000 + 40 * i for i in range(20)]
    source = write_video(tmp_path / "in.mkv", moving_pictures(20), milliseconds=milliseconds, audio="pcm_s16le")

    copy_video(source, tmp_path / "out.mp4")

    with av.open(str(tmp_path / "out.mp4")) as container:
        first_sound = next(container.decode(audio=0)).time
    assert read_video(tmp_path / "out.mp4").times[0] - first_sound == pytest.approx(2.0, abs=0.03)


def test_damaged_sound_is_left_out_and_the_rest_goes_on(tmp_path):
    source = write_video(tmp_path / "in.ts", noisy_pictures(100), audio="aac")
    data = bytearray(source.read_bytes())
    half = len(data) // 2
    data[half : half + 20_000] = np.random.default_rng(1).bytes(20_000)
    source.write_bytes(data)

    result = copy_video(source, tmp_path / "out.mp4")

    target = read_video(tmp_path / "out.mp4")
    assert result.status.captured == len(target.pictures) > 80
    assert target.audio_seconds > 3


def test_a_silent_video_stays_silent(tmp_path):
    copy_video(write_video(tmp_path / "in.mp4"), tmp_path / "out.mp4")

    assert read_video(tmp_path / "out.mp4").audio_codec is None


@pytest.mark.parametrize("size", [(240, 320), (720, 1280)])
def test_colours_survive_reading_and_writing(tmp_path, size):
    image = np.zeros((*size, 3), np.uint8)
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 30, 30), (128, 128, 128)]
    for number, colour in enumerate(colours):
        image[:, number * size[1] // 6 : (number + 1) * size[1] // 6] = colour
    middles = [(2 * number + 1) * size[1] // 12 for number in range(6)]

    write_frames(tmp_path / "out.mp4", [image] * 2)
    frames, _ = read_frames(tmp_path / "out.mp4")

    # 8-bit YUV is about this coarse.
    assert np.abs(frames[0].image[size[0] // 2, middles].astype(int) - colours).max() <= 6


def test_the_written_video_is_tagged_with_its_colours(tmp_path):
    write_frames(tmp_path / "out.mp4", moving_pictures(2))

    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (1, 1)  # BT.709, limited range


@pytest.mark.fault(26)
@pytest.mark.parametrize("size", [(48, 63), (47, 64), (47, 63), (1, 1)])
def test_odd_sides_are_padded_to_even_ones_by_repeating_the_edge(tmp_path, size):
    image = np.full((*size, 3), 50, np.uint8)
    image[-1], image[:, -1] = 200, 200

    write_frames(tmp_path / "out.mp4", [image] * 2)

    written = read_video(tmp_path / "out.mp4").pictures[0]
    assert written.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(written[-1].astype(int) - 200).max() < 30
    assert np.abs(written[:, -1].astype(int) - 200).max() < 30


@pytest.mark.fault(26)
def test_pictures_without_a_rate_must_have_one_size(tmp_path):
    with pytest.raises(SinkError, match=r"out.mp4: frame 1 is 32x16, the video is 64x48; write pictures of several"):
        write_frames(tmp_path / "out.mp4", [np.zeros((48, 64, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)], fps=None)

    assert len(read_video(tmp_path / "out.mp4").pictures) == 1


def test_a_failed_video_does_not_replace_the_one_that_was_there(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"the video of yesterday")

    with pytest.raises(SinkError, match="frame 1 is 32x16"):
        write_frames(tmp_path / "out.mp4", [np.zeros((48, 64, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)], fps=None)

    assert (tmp_path / "out.mp4").read_bytes() == b"the video of yesterday"
    assert len(read_video(tmp_path / "out.partial.mp4").pictures) == 1


def test_the_video_of_yesterday_stays_until_the_new_one_is_finished(tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"the video of yesterday")
    sink = VideoSink(target)
    sink.start(StreamInfo(name="test", is_live=False))
    image = moving_pictures(1)[0]

    sink.write(Frame(image=image, index=0, captured_at=0.0, name="0"))
    while_writing = target.read_bytes()
    sink.close()

    assert while_writing == b"the video of yesterday"
    assert len(read_video(target).pictures) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_sink_that_was_given_no_frame_leaves_the_video_of_yesterday(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"the video of yesterday")

    write_frames(tmp_path / "out.mp4", [])

    assert (tmp_path / "out.mp4").read_bytes() == b"the video of yesterday"


def test_closing_a_sink_twice_does_nothing_more(tmp_path):
    sink = VideoSink(tmp_path / "out.mp4")
    sink.start(StreamInfo(name="test", is_live=False))
    sink.write(Frame(image=moving_pictures(1)[0], index=0, captured_at=0.0, name="0"))

    sink.close()
    sink.close()

    assert len(read_video(tmp_path / "out.mp4").pictures) == 1


def test_a_file_name_may_look_like_an_address(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("10:30.mp4").write_bytes(clip.read_bytes())

    copy_video(Path("10:30.mp4"), Path("10:31.mp4"))

    assert len(read_video(tmp_path / "10:31.mp4").pictures) == 50


@pytest.mark.parametrize("name", ["out.avi", "out.jpg", "out"])
def test_a_video_sink_wants_the_name_of_a_video(tmp_path, name):
    with pytest.raises(SinkError, match=rf"{name}: expected a name ending in .mkv .mov .mp4"):
        VideoSink(tmp_path / name)


WRITE_SLOWLY = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import StreamInfo
sink = VideoSink(Path(sys.argv[1]))
sink.start(StreamInfo(name="test", is_live=False, fps=Fraction(25)))
for index in range(10_000):
    image = np.full((48, 64, 3), index % 200, np.uint8)
    sink.write(Frame(image=image, index=index, captured_at=0.0, name=""))
    print(index, flush=True)
"""


@pytest.mark.fault(24)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_killed_run_loses_the_last_seconds_only(tmp_path, suffix):
    target = tmp_path / f"out.{suffix}"
    target.write_bytes(b"the video of yesterday")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_SLOWLY, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
    )

    with process:
        for line in process.stdout:
            if line == "400\n":
                break
        process.send_signal(signal.SIGKILL)

    assert count_playable(tmp_path / f"out.partial.{suffix}") >= 300
    assert target.read_bytes() == b"the video of yesterday"

    write_frames(target, moving_pictures(2))  # the same run again

    assert count_playable(tmp_path / f"out_001.{suffix}") >= 300
    assert count_playable(target) == 2


# Real videos


STREET = SHARED_DATA / "videos" / "mmtracking_street_1080p_8frames.mp4"


@pytest.mark.skipif(not STREET.is_file(), reason=f"{STREET.name} is not in shared/data/videos")
def test_a_street_video_in_1080p_is_copied_frame_for_frame(tmp_path):
    copy_video(STREET, tmp_path / "out.mp4")

    source, target = read_video(STREET), read_video(tmp_path / "out.mp4")
    assert target.times == pytest.approx(source.times, abs=0.001)
    assert target.duration == pytest.approx(source.duration, abs=1 / 3)
    assert mean_difference(source.pictures[-1:], target.pictures[-1:]) < 5
