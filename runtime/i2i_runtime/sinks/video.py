"""H.264 video files through PyAV, with the sound of the source."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from i2i_runtime.errors import SinkError, reason
from i2i_runtime.frame import Frame
from i2i_runtime.image import make_folder
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sources.base import StreamInfo

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv"})
_FALLBACK_RATE = Fraction(30)


class VideoSink(Sink):
    """An H.264 file that is playable at every moment.

    It is written beside its target as `name.partial.mp4`, in fragments of about a second, and moved into place when
    it is closed: a crash leaves the old target whole and a playable partial file.
    """

    def __init__(self, path: Path) -> None:
        """Check the target.

        Raises:
            SinkError: not a name for a video, or a folder that cannot be written.
        """
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise SinkError(f"{path}: expected a name ending in {' '.join(sorted(VIDEO_SUFFIXES))}")
        if path.is_dir():
            raise SinkError(f"{path}: expected a name for a video file, found a folder")
        make_folder(path.parent)
        self._path = path
        self._beside = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._info: StreamInfo | None = None
        self._encoder: _Encoder | None = None
        self._frames = 0

    def start(self, info: StreamInfo) -> None:
        """See `Sink`."""
        self._info = info

    def write(self, frame: Frame) -> None:
        """See `Sink`; all frames must have the size of the first."""
        assert self._info is not None, "start comes first"
        try:
            if self._encoder is None:
                self._encoder = _Encoder(self._beside, frame, self._info)
            self._encoder.write(frame)
        except (av.error.FFmpegError, OSError) as error:
            raise SinkError(f"{self._path}: cannot be written ({_why(error)})") from error
        self._frames += 1

    def close(self) -> None:
        """See `Closing`: finishes the file and moves it into place."""
        if self._encoder is None:
            return
        encoder, self._encoder = self._encoder, None
        try:
            encoder.close()
        except (av.error.FFmpegError, OSError) as error:
            # The fragments that reached the disk are playable: keep them.
            self._beside.replace(self._path)
            raise SinkError(f"{self._path}: breaks off after about {self._frames} frames ({_why(error)})") from error
        self._beside.replace(self._path)

    def summary(self) -> str:
        """See `Sink`."""
        return f"{self._frames} frames in {self._path}"


class _Encoder:
    """One file being written: a video track and, where the source has sound, an audio track."""

    def __init__(self, path: Path, first: Frame, info: StreamInfo) -> None:
        self._path = path
        self._height, self._width = first.image.shape[:2]
        rate = info.fps or _FALLBACK_RATE
        # Whole multiples of the rate's numerator: constant rates are exact, variable ones good to 11 us.
        self._time_base = Fraction(1, rate.numerator * max(1, round(90_000 / rate.numerator)))
        options = {} if path.suffix.lower() == ".mkv" else {"movflags": "hybrid_fragmented"}
        self._output = av.open(str(path), "w", options=options)
        self._stream = self._output.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        # H.264 in 4:2:0, which every player takes, has even sides only.
        self._stream.width = self._width + self._width % 2
        self._stream.height = self._height + self._height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._time_base
        self._stream.codec_context.gop_size = max(1, round(rate))
        self._stream.codec_context.colorspace = Colorspace.ITU709
        self._stream.codec_context.color_primaries = ColorPrimaries.BT709
        self._stream.codec_context.color_trc = ColorTrc.BT709
        self._stream.codec_context.color_range = ColorRange.MPEG
        self._frame_length = round(1 / rate / self._time_base)
        self._next_pts = 0
        self._sound = _AudioTrack(info.audio_file, self._output) if info.audio_file else None

    def write(self, frame: Frame) -> None:
        height, width = frame.image.shape[:2]
        if (height, width) != (self._height, self._width):
            raise SinkError(
                f"{self._path}: frame {frame.index} is {width}x{height}, the video is {self._width}x{self._height}; "
                "write pictures of several sizes to a folder"
            )
        image = frame.image
        if height % 2 or width % 2:
            image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
        picture = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        seconds = frame.timestamp
        pts = self._next_pts if seconds is None else max(self._next_pts, round(seconds / self._time_base))
        picture.pts = pts
        picture.time_base = self._time_base
        # Without a clock frames follow at the rate; with one they need only go forward.
        self._next_pts = pts + (self._frame_length if seconds is None else 1)
        if self._sound:
            self._sound.copy_until(pts * self._time_base)
        self._mux(picture)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(picture):
            if not packet.duration:
                packet.duration = self._frame_length
            self._output.mux(packet)

    def close(self) -> None:
        try:
            if self._sound:
                self._sound.copy_until((self._next_pts + self._frame_length) * self._time_base)
                self._sound.close()
            self._mux(None)
        finally:
            self._output.close()


_COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
"""Sound that players expect in MP4 and MKV: taken over bit for bit. Anything else becomes AAC."""


class _AudioTrack:
    """The first sound track of a file, copied into another as far as the pictures have come."""

    def __init__(self, source: Path, output: av.container.OutputContainer) -> None:
        self._output = output
        self._input = av.open(str(source))
        stream = self._input.streams.audio[0]
        start = self._input.start_time
        self._start = Fraction(start, av.time_base) if start is not None else Fraction(0)
        self._target: Any
        self._is_copy = stream.codec_context.name in _COPIED_CODECS
        if self._is_copy:
            self._target = output.add_stream_from_template(stream)
        else:
            self._target = output.add_stream("aac", rate=stream.codec_context.sample_rate)
            self._target.codec_context.layout = stream.codec_context.layout
            self._resampler = av.AudioResampler(format="fltp", layout=stream.codec_context.layout)
        self._packets = self._packets_of(stream)
        self._waiting = next(self._packets, None)

    def _packets_of(self, stream: Any) -> Iterator[tuple[Fraction, Any]]:
        """Packets with their time in seconds; damaged sound is left out, as damaged pictures are."""
        packets = self._input.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError):
                return
            if packet is None:
                return
            if packet.pts is not None and packet.time_base is not None:
                yield packet.pts * packet.time_base - self._start, packet

    def copy_until(self, seconds: Fraction) -> None:
        """Write the sound that begins before `seconds`."""
        while self._waiting is not None and self._waiting[0] < seconds:
            self._write(self._waiting[1])
            self._waiting = next(self._packets, None)

    def _write(self, packet: Any) -> None:
        if self._is_copy:
            offset = round(self._start / packet.time_base)
            packet.pts -= offset
            packet.dts = packet.pts
            packet.stream = self._target
            self._output.mux(packet)
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            return
        for frame in decoded:
            if frame.pts is not None:
                frame.pts -= round(self._start / frame.time_base)
            for resampled in self._resampler.resample(frame):
                self._output.mux(self._target.encode(resampled))

    def close(self) -> None:
        if not self._is_copy:
            self._output.mux(self._target.encode(None))
        self._input.close()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or reason(error)
