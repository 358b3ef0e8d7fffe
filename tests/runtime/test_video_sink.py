"""The video sink where things change on the way: sizes, sources, gaps, encoders, a recording begun in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import moving_pictures, read_video, write_video

from i2i_runtime import h264
from i2i_runtime.errors import DeviceError, SinkError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.letterbox import letterbox
from i2i_runtime.sinks.images import ImagesSink
from i2i_runtime.sinks.open import open_sink
from i2i_runtime.sinks.publish import PublishSink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import StreamInfo

SMALL, LARGE = (48, 64), (96, 128)
FILE = StreamInfo(name="file", is_live=False, fps=Fraction(25))
CAMERA = StreamInfo(name="camera", is_live=True, fps=Fraction(25))


def frame(index: int, size: tuple[int, int] = SMALL, *, source: int = 0, value: int = 128, at: float | None = None):
    timestamp = Fraction(index, 25) if at is None else Fraction(at)
    image = np.full((*size, 3), value, np.uint8)
    return Frame(image=image, index=index, captured_at=0.0, name=f"{index:06d}", timestamp=timestamp, source=source)


def write(sink: VideoSink | ImagesSink, frames: Iterable[Frame], *infos: StreamInfo) -> str:
    with sink:
        sink.start(*infos)
        for each in frames:
            sink.write(each)
    return sink.summary()


def shape(path: Path) -> tuple[int, ...]:
    """(pictures, height, width)."""
    pictures = read_video(path).pictures
    return len(pictures), *pictures[0].shape[:2]


# A size that changes


@pytest.mark.fault(8, 26)
@pytest.mark.parametrize("info", [FILE, CAMERA, StreamInfo(name="no rate", is_live=True)], ids=lambda info: info.name)
def test_a_new_size_begins_a_new_file(tmp_path, info):
    sizes = [SMALL] * 3 + [LARGE] * 2 + [SMALL] * 4

    summary = write(VideoSink(tmp_path / "out.mp4"), [frame(i, size) for i, size in enumerate(sizes)], info)

    names = ["out.mp4", "out_001.mp4", "out_002.mp4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert [shape(tmp_path / name) for name in names] == [(3, 48, 64), (2, 96, 128), (4, 48, 64)]
    assert summary == ", ".join(f"{n} frames in {tmp_path / name}" for n, name in zip((3, 2, 4), names, strict=True))


def test_a_new_file_never_takes_the_name_of_one_that_is_there(tmp_path):
    for name in ("out_001.mp4", "out_002.partial.mp4"):
        (tmp_path / name).write_bytes(b"of yesterday")

    write(VideoSink(tmp_path / "out.mp4"), [frame(0), frame(1, LARGE)], FILE)

    assert shape(tmp_path / "out_003.mp4") == (1, 96, 128)
    assert (tmp_path / "out_001.mp4").read_bytes() == (tmp_path / "out_002.partial.mp4").read_bytes() == b"of yesterday"


def test_each_new_file_begins_at_zero(tmp_path):
    frames = [frame(0), frame(1), frame(2, LARGE), frame(3, LARGE)]

    write(VideoSink(tmp_path / "out.mp4"), frames, FILE)

    assert read_video(tmp_path / "out_001.mp4").times == pytest.approx([0, 1 / 25])


def test_a_new_file_goes_on_with_the_sound_where_the_last_one_ended(tmp_path):
    source = write_video(tmp_path / "in.mp4", moving_pictures(100), audio="aac")
    info = StreamInfo(name="in", is_live=False, fps=Fraction(25), frame_count=100, audio_file=source)

    write(VideoSink(tmp_path / "out.mp4"), [frame(i, SMALL if i < 50 else LARGE) for i in range(100)], info)

    first, second = read_video(tmp_path / "out.mp4"), read_video(tmp_path / "out_001.mp4")
    assert (first.audio_seconds, second.audio_seconds) == pytest.approx((2.0, 2.0), abs=0.1)
    whole = read_video(source).audio_packets
    assert whole[-len(second.audio_packets) :] == second.audio_packets


@pytest.mark.fault(8, 26)
def test_with_a_fixed_size_other_frames_are_put_between_black_bars(tmp_path):
    frames = [frame(0, (48, 64), value=200), frame(1, (96, 64), value=200)]

    write(VideoSink(tmp_path / "out.mp4", fixed_size=True), frames, FILE)

    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    second = read_video(tmp_path / "out.mp4").pictures[1].astype(int)
    assert np.abs(second[:, 20:44] - 200).max() < 20
    assert second[:, :12].max() < 20
    assert second[:, 52:].max() < 20


def test_a_fixed_size_makes_a_video_of_pictures_of_several_sizes(tmp_path):
    pictures = StreamInfo(name="pictures", is_live=False)

    write(VideoSink(tmp_path / "out.mp4", fixed_size=True), [frame(0), frame(1, LARGE)], pictures)

    assert shape(tmp_path / "out.mp4") == (2, 48, 64)


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (3, 5), (48, 64), (480, 640)])
def test_a_letterbox_has_the_size_that_was_asked_for(size):
    boxed = letterbox(np.full((*size, 3), 255, np.uint8), SMALL)

    assert boxed.shape == (*SMALL, 3)
    assert boxed.max() == 255


# What earlier runs left


@pytest.mark.fault(24)
@pytest.mark.parametrize("info", [FILE, CAMERA], ids=lambda info: info.name)
def test_what_a_killed_run_left_is_kept_under_the_next_free_name(tmp_path, info):
    (tmp_path / "out.partial.mp4").write_bytes(b"of a run that was killed")
    (tmp_path / "out_001.mp4").write_bytes(b"of yesterday")

    summary = write(VideoSink(tmp_path / "out.mp4"), [frame(0), frame(1)], info)

    assert (tmp_path / "out_002.mp4").read_bytes() == b"of a run that was killed"
    assert (tmp_path / "out_001.mp4").read_bytes() == b"of yesterday"
    assert shape(tmp_path / "out.mp4") == (2, 48, 64)
    kept = f"kept what an earlier run left: {tmp_path / 'out_002.mp4'}"
    assert summary == f"2 frames in {tmp_path / 'out.mp4'}; {kept}"


def test_an_empty_partial_file_is_not_worth_keeping(tmp_path):
    (tmp_path / "out.partial.mp4").touch()

    write(VideoSink(tmp_path / "out.mp4"), [frame(0)], FILE)

    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_live_source_never_replaces_a_recording(tmp_path):
    names = ["out.mp4", "out_001.mp4", "out_002.mp4"]

    summaries = [
        write(VideoSink(tmp_path / "out.mp4"), [frame(i) for i in range(count)], CAMERA) for count in (1, 2, 3)
    ]

    assert [shape(tmp_path / name)[0] for name in names] == [1, 2, 3]
    kept = f"kept what an earlier run left: {tmp_path / 'out.mp4'}"
    assert summaries[2] == f"3 frames in {tmp_path / 'out_002.mp4'}; {kept}"


def test_a_live_source_does_not_even_replace_what_came_meanwhile(tmp_path):
    with VideoSink(tmp_path / "out.mp4") as sink:
        sink.start(CAMERA)
        sink.write(frame(0))
        (tmp_path / "out.mp4").write_bytes(b"of another run")

    assert (tmp_path / "out.mp4").read_bytes() == b"of another run"
    assert shape(tmp_path / "out_001.mp4") == (1, 48, 64)
    assert sink.summary() == f"1 frames in {tmp_path / 'out_001.mp4'}"


def test_a_file_beside_a_live_source_replaces_its_own_video_only(tmp_path):
    for name in ("out_0.mp4", "out_1.mp4"):
        (tmp_path / name).write_bytes(b"of yesterday")

    write(VideoSink(tmp_path / "out.mp4"), [frame(0), frame(0, source=1)], FILE, CAMERA)

    assert shape(tmp_path / "out_0.mp4") == (1, 48, 64)
    assert (tmp_path / "out_1.mp4").read_bytes() == b"of yesterday"
    assert shape(tmp_path / "out_1_001.mp4") == (1, 48, 64)


@pytest.mark.skipif(os.name == "nt", reason="Windows tells of a file by other means")
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "out.mp4").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)

    write(VideoSink(tmp_path / "out.mp4"), [frame(0)], FILE)

    assert synced == [((tmp_path / "out.mp4").stat().st_ino, False), (tmp_path.stat().st_ino, True)]


# Segments


@pytest.mark.parametrize("has_clock", [True, False])
def test_after_so_many_seconds_a_new_file_begins(tmp_path, has_clock):
    frames = [frame(i) if has_clock else replace(frame(i), timestamp=None) for i in range(60)]

    write(VideoSink(tmp_path / "out.mp4", segment_s=1.0), frames, CAMERA)

    videos = [read_video(tmp_path / name) for name in ("out.mp4", "out_001.mp4", "out_002.mp4")]
    assert [len(video.pictures) for video in videos] == [25, 25, 10]
    assert all(video.times[0] == 0 for video in videos)


@pytest.mark.parametrize(("info", "files"), [(CAMERA, [2, 1]), (FILE, [3])], ids=lambda value: str(value)[:20])
def test_unless_told_otherwise_a_file_of_a_live_source_lasts_six_hours(tmp_path, info, files):
    write(VideoSink(tmp_path / "out.mp4"), [frame(i, at=at) for i, at in enumerate((0, 21_599.5, 21_600))], info)

    assert [shape(path)[0] for path in sorted(tmp_path.iterdir())] == files


def test_a_fixed_size_outlasts_a_segment(tmp_path):
    frames = [frame(0), frame(25, LARGE), frame(50, LARGE)]

    write(VideoSink(tmp_path / "out.mp4", fixed_size=True, segment_s=1.0), frames, CAMERA)

    assert {shape(path) for path in tmp_path.iterdir()} == {(1, 48, 64)}


def test_segments_of_a_file_share_its_sound(tmp_path):
    source = write_video(tmp_path / "in.mp4", moving_pictures(100), audio="aac")
    info = StreamInfo(name="in", is_live=False, fps=Fraction(25), frame_count=100, audio_file=source)

    write(VideoSink(tmp_path / "out.mp4", segment_s=2.0), [frame(i) for i in range(100)], info)

    first, second = read_video(tmp_path / "out.mp4"), read_video(tmp_path / "out_001.mp4")
    assert first.audio_packets + second.audio_packets == read_video(source).audio_packets


def test_a_summary_of_many_files_stays_a_line(tmp_path):
    summary = write(VideoSink(tmp_path / "out.mp4", segment_s=0.01), [frame(i) for i in range(12)], CAMERA)

    assert summary == f"12 frames in 12 files from {tmp_path / 'out.mp4'} to {tmp_path / 'out_011.mp4'}"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_segment_without_length_is_refused(tmp_path, seconds):
    with pytest.raises(UsageError, match=r"segment: expected seconds above 0, found"):
        VideoSink(tmp_path / "out.mp4", segment_s=seconds)


# Several sources


def test_each_of_several_sources_gets_a_file_of_its_own(tmp_path):
    frames = [frame(i // 2, (SMALL, LARGE)[i % 2], source=i % 2) for i in range(10)]

    write(VideoSink(tmp_path / "out.mp4"), frames, CAMERA, CAMERA)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["out_0.mp4", "out_1.mp4"]
    assert [shape(tmp_path / f"out_{i}.mp4") for i in (0, 1)] == [(5, 48, 64), (5, 96, 128)]


def test_pictures_of_several_sources_with_the_same_name_do_not_overwrite_each_other(tmp_path):
    write(ImagesSink(tmp_path / "out"), [frame(7, source=0), frame(7, source=1)], FILE, FILE)

    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000007_0.png", "000007_1.png"]


# Time


def test_a_live_stream_keeps_its_gaps(tmp_path):
    times = [0.0, 0.04, 0.08, 5.0, 5.04, 65.0]

    write(VideoSink(tmp_path / "out.mp4"), [frame(i, at=t) for i, t in enumerate(times)], CAMERA)

    assert read_video(tmp_path / "out.mp4").times == pytest.approx(times, abs=0.001)


def test_a_recording_begun_in_the_middle_begins_at_zero(tmp_path):
    write(VideoSink(tmp_path / "out.mp4"), [frame(90_000 + i) for i in range(3)], CAMERA)

    assert read_video(tmp_path / "out.mp4").times == pytest.approx([0, 0.04, 0.08], abs=0.001)


def test_sound_that_outlasts_the_last_picture_is_kept(tmp_path):
    source = write_video(tmp_path / "in.mp4", moving_pictures(100), audio="aac")
    info = StreamInfo(name="in", is_live=False, fps=Fraction(25), frame_count=25, audio_file=source)

    write(VideoSink(tmp_path / "out.mp4"), [frame(i) for i in range(25)], info)

    assert read_video(tmp_path / "out.mp4").audio_packets == read_video(source).audio_packets


def test_a_run_that_was_stopped_keeps_the_sound_of_what_was_shown_only(tmp_path):
    source = write_video(tmp_path / "in.mp4", moving_pictures(100), audio="aac")
    info = StreamInfo(name="in", is_live=False, fps=Fraction(25), frame_count=100, audio_file=source)

    write(VideoSink(tmp_path / "out.mp4"), [frame(i) for i in range(25)], info)

    assert read_video(tmp_path / "out.mp4").audio_seconds == pytest.approx(1.0, abs=0.1)


# Encoders


def test_auto_takes_an_encoder_that_works_here(tmp_path):
    write(VideoSink(tmp_path / "out.mp4", encoder="auto"), [frame(i) for i in range(5)], FILE)

    assert shape(tmp_path / "out.mp4") == (5, 48, 64)


def test_the_processor_is_always_left():
    assert h264.why_not("libx264", SMALL) is None
    assert h264.choose_encoder("auto", SMALL) in h264.ENCODERS[1:]


def test_an_encoder_is_asked_once_in_a_process():
    h264.choose_encoder("auto", SMALL)
    asked = h264.why_not.cache_info().misses

    h264.choose_encoder("auto", SMALL)

    assert h264.why_not.cache_info().misses == asked


def test_looking_for_hardware_prints_nothing(capfd):
    h264.why_not.cache_clear()

    h264.choose_encoder("auto", (64, 64))

    assert capfd.readouterr() == ("", "")


def missing_encoders() -> list[str]:
    return [name for name in h264.ENCODERS if name != "auto" and h264.why_not(name, (480, 640)) is not None]


@pytest.mark.skipif(not missing_encoders(), reason="this machine has every encoder")
def test_an_encoder_that_was_named_and_is_missing_is_told_before_anything_begins(tmp_path):
    name = missing_encoders()[0]

    with pytest.raises(DeviceError, match=rf"encoder {name}: does not work here \(.+\); use auto or libx264"):
        VideoSink(tmp_path / "out.mp4", encoder=name)


def test_an_encoder_of_another_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"encoder 'h265': expected one of auto, h264_nvenc, .*libx264"):
        VideoSink(tmp_path / "out.mp4", encoder="h265")


@pytest.mark.parametrize("name", [n for n in h264.ENCODERS if n != "auto"])
def test_every_encoder_that_works_here_writes_a_video(tmp_path, name):
    if problem := h264.why_not(name, (480, 640)):
        pytest.skip(f"{name}: {problem}")

    write(VideoSink(tmp_path / "out.mp4", encoder=name), [frame(i, (480, 640)) for i in range(30)], FILE)

    assert shape(tmp_path / "out.mp4") == (30, 480, 640)


# Nothing is left behind


@pytest.mark.fault(21)
@pytest.mark.parametrize("make", [lambda path: ImagesSink(path), lambda path: VideoSink(path / "out.mp4")])
def test_a_sink_that_was_never_started_leaves_no_folder(tmp_path, make):
    make(tmp_path / "a" / "b").close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda path: ImagesSink(path), lambda path: VideoSink(path / "out.mp4")])
def test_the_folder_is_made_when_the_run_starts(tmp_path, make):
    write(make(tmp_path / "a" / "b"), [frame(0)], FILE)

    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


# What is asked for


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("out.mp4", VideoSink),
        ("out.MKV", VideoSink),
        ("results", ImagesSink),
        ("rtmp://127.0.0.1/live/key", PublishSink),
        ("rtsp://127.0.0.1:8554/live", PublishSink),
        ("srt://127.0.0.1:9000", PublishSink),
        ("udp://127.0.0.1:9000", PublishSink),
        (Path("rtmp://127.0.0.1/live/key"), PublishSink),
    ],
)
def test_a_name_or_an_address_says_which_sink_it_is(tmp_path, monkeypatch, where, kind):
    monkeypatch.chdir(tmp_path)

    with open_sink(where) as sink:
        assert type(sink) is kind


def test_a_folder_with_a_dot_in_its_name_is_a_folder(tmp_path):
    (tmp_path / "run.1").mkdir()

    assert isinstance(open_sink(tmp_path / "run.1"), ImagesSink)


def test_the_whole_of_a_file_is_said_to_be_bt709(tmp_path):
    write(VideoSink(tmp_path / "out.mp4", encoder="auto"), [frame(0)], FILE)

    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).colorspace == 1


@pytest.mark.parametrize("suffix", ["avi", "jpg"])
def test_a_file_that_is_no_video_is_refused(tmp_path, suffix):
    with pytest.raises(SinkError, match=rf"out.{suffix}: expected a name ending in"):
        open_sink(tmp_path / f"out.{suffix}")
