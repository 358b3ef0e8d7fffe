"""H.264 video files through PyAV, with the sound of the source."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from i2i_runtime.audio import AudioTrack
from i2i_runtime.errors import I2IError, SinkError, UsageError, system_reason
from i2i_runtime.frame import Frame
from i2i_runtime.h264 import SOFTWARE, add_stream, check_encoder, choose_encoder, even, to_picture
from i2i_runtime.letterbox import letterbox
from i2i_runtime.sinks.base import Sink, try_folder
from i2i_runtime.sources.base import StreamInfo

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv"})
_FALLBACK_RATE = Fraction(30)
_LIVE_SEGMENT = 6 * 3600.0
"""Seconds. MP4 keeps its index in memory until the file is finished, 70 bytes a frame: so long it stays below 50 MB."""
_NAMED_FILES = 8
"""So many are named one by one in a summary."""


class VideoSink(Sink):
    """H.264 files that are playable at every moment: one for a source, `out_0.mp4`, `out_1.mp4` ... for several.

    Each is written beside its target as `name.partial.mp4`, in fragments of about a second, and moved into place when
    it is finished: a crash leaves the old target whole and a playable partial file, which the next run keeps under
    another name. Where the size of the frames changes on the way, or the file is long enough, `out.mp4` is finished and
    `out_001.mp4` begun.

    A file can be translated again, so its video replaces that of an earlier run; a live source never comes back, so its
    video goes on in the next `out_NNN.mp4` that is free.
    """

    queue_length = 32
    """An encoder and a disk take a second now and then, which shall cost a live source no frame."""

    def __init__(
        self, path: Path, *, encoder: str = SOFTWARE, fixed_size: bool = False, segment_s: float | None = None
    ) -> None:
        """Check the target.

        Args:
            path: a name ending in one of `VIDEO_SUFFIXES`.
            encoder: one of `h264.ENCODERS`. The default makes the same file on every machine, and at the same size a
                better one than hardware does; `auto` takes a graphics chip where one answers, which leaves the
                processor to the model.
            fixed_size: put frames of another size into that of the first, with black bars, instead of beginning a
                new file.
            segment_s: seconds of video after which the next frame begins a new file; by default 6 hours of a live
                source, and never of a file.

        Raises:
            SinkError: not a name for a video, or a folder that cannot be written.
            UsageError: there is no such encoder, or `segment_s` is not above 0.
            DeviceError: the encoder does not work here.
        """
        if segment_s is not None and not segment_s > 0:
            raise UsageError(f"segment: expected seconds above 0, found {segment_s:g}")
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise SinkError(f"{path}: expected a name ending in {' '.join(sorted(VIDEO_SUFFIXES))}")
        if path.is_dir():
            raise SinkError(f"{path}: expected a name for a video file, found a folder")
        try_folder(path.parent)
        check_encoder(encoder)
        self._path = path
        self._encoder = encoder
        self._fixed_size = fixed_size
        self._segment_s = segment_s
        self._tracks: list[_Track] = []

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        paths = video_paths(self._path, len(infos))
        self._tracks = [
            _Track(path, info, self._encoder, self._fixed_size, self._segment_s)
            for path, info in zip(paths, infos, strict=True)
        ]

    def write(self, frame: Frame) -> None:
        """See `Sink`; pictures without a rate of their own must have one size, or `fixed_size`."""
        self._tracks[frame.source].write(frame)

    def close(self) -> None:
        """See `Closing`: finishes the files and moves them into place.

        After a failure the fragments that reached the disk are playable and are kept; where a file has the target's
        name already, beside it.
        """
        failures = []
        for track in self._tracks:
            try:
                track.close()
            except I2IError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def summary(self) -> str:
        """See `Sink`."""
        made = [made for track in self._tracks for made in track.made]
        kept = [str(path) for track in self._tracks for path in track.kept]
        if len(made) > _NAMED_FILES:
            frames = sum(frames for _, frames in made)
            line = f"{frames} frames in {len(made)} files from {made[0][0]} to {made[-1][0]}"
        else:
            line = ", ".join(f"{frames} frames in {path}" for path, frames in made) or f"0 frames in {self._path}"
        return f"{line}; kept what an earlier run left: {', '.join(kept)}" if kept else line


def video_paths(path: Path, sources: int) -> list[Path]:
    """The first file of each source: `out.mp4` for one, `out_0.mp4`, `out_1.mp4` ... for several."""
    if sources == 1:
        return [path]
    return [path.with_name(f"{path.stem}_{number}{path.suffix}") for number in range(sources)]


def partial_path(path: Path) -> Path:
    """Where the video `path` is written until it is finished."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class _Track:
    """The files of one source, one after another."""

    def __init__(self, path: Path, info: StreamInfo, encoder: str, fixed_size: bool, segment_s: float | None) -> None:
        self._first = path
        self._info = info
        self._encoder = encoder
        self._fixed_size = fixed_size
        self._segment_s = segment_s or (_LIVE_SEGMENT if info.is_live else math.inf)
        self._size: tuple[int, int] | None = None
        self._file: _File | None = None
        self._finished: list[tuple[Path, int]] = []
        self.kept: list[Path] = []
        """What an earlier run left under the names of this one."""

    @property
    def made(self) -> list[tuple[Path, int]]:
        """Each file with its number of frames."""
        return self._finished + ([self._file.made] if self._file else [])

    def write(self, frame: Frame) -> None:
        size = frame.image.shape[0], frame.image.shape[1]
        self._size = self._size or size
        if self._fixed_size:
            frame = replace(frame, image=letterbox(frame.image, self._size))
        elif size != self._size:
            self._refuse_without_rate(frame, self._size)
            self.close()
            self._size = size
        if self._file is not None and self._file.position(frame) >= self._segment_s:
            self.close()
        if self._file is None:
            # The source's beginning is the file's, so that pictures and sound stay as far apart as they were; what
            # is switched on in the middle begins there.
            is_beginning = frame.index == 0 and not self._finished
            self._file = _File(self._next_path(), self._encoder, self._info, may_replace=self._may_replace())
            self._file.open(frame, begins=Fraction(0) if is_beginning else None)
        self._file.write(frame)

    def _refuse_without_rate(self, frame: Frame, size: tuple[int, int]) -> None:
        if self._file is None or self._info.fps is not None or self._info.is_live:
            return
        self._file.is_broken = True
        height, width = frame.image.shape[:2]
        raise SinkError(
            f"{self._file.path}: frame {frame.index} is {width}x{height}, the video is {size[1]}x{size[0]}; "
            "write pictures of several sizes to a folder or with --fixed-size"
        )

    def _may_replace(self) -> bool:
        return not self._info.is_live and not self._finished

    def _next_path(self) -> Path:
        if self._finished:
            return _free_path(self._first, len(self._finished))
        self._keep_partial()
        if self._may_replace() or not self._first.exists():
            return self._first
        self.kept.append(self._first)
        return _free_path(self._first)

    def _keep_partial(self) -> None:
        """Out of the way with what a run that was killed left, before it is written over."""
        partial = partial_path(self._first)
        try:
            if partial.exists() and partial.stat().st_size:
                self.kept.append(partial.rename(_free_path(self._first)))
        except OSError as error:
            raise SinkError(
                f"{partial}: an earlier run left it, and it cannot be renamed ({system_reason(error)}); move it away"
            ) from error

    def close(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        finally:
            self._finished.append(self._file.made)
            self._file = None


def _free_path(first: Path, number: int = 1) -> Path:
    """The next of `out_001.mp4`, `out_002.mp4` ... that no file has: nobody named it to be replaced."""
    while True:
        path = first.with_name(f"{first.stem}_{number:03d}{first.suffix}")
        if not path.exists() and not partial_path(path).exists():
            return path
        number += 1


class _File:
    """One file on its way from `name.partial.mp4` to `name.mp4`."""

    def __init__(self, path: Path, encoder: str, info: StreamInfo, *, may_replace: bool) -> None:
        self.path = path
        self.is_broken = False
        self._beside = partial_path(path)
        self._encoder_name = encoder
        self._info = info
        self._may_replace = may_replace
        self._encoder: _Encoder | None = None
        self._frames = 0
        self._kept = path

    @property
    def made(self) -> tuple[Path, int]:
        return self._kept, self._frames

    def open(self, first: Frame, begins: Fraction | None) -> None:
        try:
            self._encoder = _Encoder(self._beside, first, self._info, self._encoder_name, begins)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.is_broken = True
            raise SinkError(f"{self.path}: cannot be written ({system_reason(error)})") from error

    def position(self, frame: Frame) -> float:
        """Seconds from the beginning of the file at which that frame would come."""
        assert self._encoder is not None, "open comes first"
        return self._encoder.position(frame)

    def write(self, frame: Frame) -> None:
        assert self._encoder is not None, "open comes first"
        try:
            self._encoder.write(frame)
        except (av.error.FFmpegError, OSError) as error:
            self.is_broken = True
            raise SinkError(f"{self.path}: cannot be written ({system_reason(error)})") from error
        self._frames += 1

    def close(self) -> None:
        if self._encoder is None:
            return
        encoder, self._encoder = self._encoder, None
        try:
            encoder.close()
        except (av.error.FFmpegError, OSError) as error:
            self.is_broken = True
            raise SinkError(
                f"{self.path}: breaks off after about {self._frames} frames ({system_reason(error)})"
            ) from error
        finally:
            self._keep()

    def _keep(self) -> None:
        if not self._beside.exists():  # FFmpeg makes it with the first packet
            return
        self._kept = self._beside
        is_taken = self.path.exists()
        if self.is_broken and is_taken:
            return
        target = _free_path(self.path) if is_taken and not self._may_replace else self.path
        try:
            if not self.is_broken:
                _sync(self._beside)
            self._kept = self._beside.replace(target)
        except OSError as error:
            raise SinkError(f"{target}: cannot be finished ({system_reason(error)}); see {self._beside}") from error
        with suppress(OSError):  # Windows opens no folders
            _sync(target.parent, os.O_RDONLY)


def _sync(path: Path, flags: int = os.O_RDWR) -> None:
    """Wait until the disk has it: a file that is said to be finished survives a power cut."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Encoder:
    """One file being written: a video track and, where the source has sound, an audio track."""

    def __init__(self, path: Path, first: Frame, info: StreamInfo, encoder: str, begins: Fraction | None) -> None:
        size = first.image.shape[0], first.image.shape[1]
        rate = info.fps or _FALLBACK_RATE
        # Whole multiples of the rate's numerator: constant rates are exact, variable ones good to 11 us.
        self._time_base = Fraction(1, rate.numerator * max(1, round(90_000 / rate.numerator)))
        # FFmpeg would keep back up to 256 KiB, which can be half a minute, and a killed run would lose it.
        options = {"flush_packets": "1"}
        if path.suffix.lower() != ".mkv":
            # delay_moov: a head written before the first packets are known has no edit list, and the video would
            # begin late by the length of its reordered frames.
            options["movflags"] = "hybrid_fragmented+delay_moov"
        # Absolute: FFmpeg takes the relative name `10:30.mp4` for an address.
        self._output = av.open(str(path.absolute()), "w", options=options)
        name = choose_encoder(encoder, size)
        self._stream = add_stream(self._output, name, even(size), rate, self._time_base)
        self._frame_length = round(1 / rate / self._time_base)
        self._next_pts = 0
        self._frame_count = info.frame_count
        self._is_at_the_end = False
        self._begins = begins if begins is not None else first.timestamp or Fraction(0)
        self._sound = AudioTrack(info.audio_file, self._output, self._begins) if info.audio_file else None

    def write(self, frame: Frame) -> None:
        picture = to_picture(frame.image, self._stream.pix_fmt)
        pts = self._pts(frame)
        # Without a clock frames follow at the rate; with one they need only go forward.
        self._next_pts = pts + (self._frame_length if frame.timestamp is None else 1)
        picture.pts = pts
        picture.time_base = self._time_base
        self._is_at_the_end = self._frame_count is not None and frame.index + 1 >= self._frame_count
        if self._sound:
            self._sound.copy_until(pts * self._time_base)
        self._mux(picture)

    def position(self, frame: Frame) -> float:
        """Seconds from the beginning of the file at which that frame would come."""
        return float(self._pts(frame) * self._time_base)

    def _pts(self, frame: Frame) -> int:
        if frame.timestamp is None:
            return self._next_pts
        return max(self._next_pts, round((frame.timestamp - self._begins) / self._time_base))

    def _mux(self, picture: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(picture):
            if not packet.duration:
                packet.duration = self._frame_length
            self._output.mux(packet)

    def close(self) -> None:
        try:
            if self._sound:
                # Sound that outlasts the last picture belongs to it; a run that was stopped has had no last picture.
                end = (self._next_pts + self._frame_length) * self._time_base
                self._sound.copy_until(None if self._is_at_the_end else end)
                self._sound.close()
            self._mux(None)
        finally:
            self._output.close()
