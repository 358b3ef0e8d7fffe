"""H.264 video files through PyAV, with the sound of the source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from i2i_runtime.audio import AudioTrack
from i2i_runtime.errors import SinkError, system_reason
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
        self._path = self._kept = path
        self._beside = partial_path(path)
        self._is_broken = False
        self._info: StreamInfo | None = None
        self._encoder: _Encoder | None = None
        self._frames = 0

    def start(self, info: StreamInfo) -> None:
        """See `Sink`."""
        self._info = info

    def write(self, frame: Frame) -> None:
        """See `Sink`; all frames must have the size of the first."""
        assert self._info is not None, "start comes first"
        if self._encoder is not None and frame.image.shape[:2] != self._encoder.size:
            self._is_broken = True
            (height, width), (expected_height, expected_width) = frame.image.shape[:2], self._encoder.size
            raise SinkError(
                f"{self._path}: frame {frame.index} is {width}x{height}, the video is {expected_width}x"
                f"{expected_height}; write pictures of several sizes to a folder"
            )
        try:
            if self._encoder is None:
                self._encoder = _Encoder(self._beside, frame, self._info)
            self._encoder.write(frame)
        except (av.error.FFmpegError, OSError) as error:
            self._is_broken = True
            raise SinkError(f"{self._path}: cannot be written ({system_reason(error)})") from error
        self._frames += 1

    def close(self) -> None:
        """See `Closing`: finishes the file and moves it into place.

        After a failure the fragments that reached the disk are playable and are kept; where a file has the target's
        name already, beside it.
        """
        if self._encoder is None:
            return
        encoder, self._encoder = self._encoder, None
        try:
            encoder.close()
        except (av.error.FFmpegError, OSError) as error:
            self._is_broken = True
            raise SinkError(
                f"{self._path}: breaks off after about {self._frames} frames ({system_reason(error)})"
            ) from error
        finally:
            self._keep()

    def _keep(self) -> None:
        if self._is_broken and self._path.exists():
            self._kept = self._beside
        elif self._beside.exists():  # FFmpeg makes it with the first packet
            self._beside.replace(self._path)

    def summary(self) -> str:
        """See `Sink`."""
        return f"{self._frames} frames in {self._kept}"


def partial_path(path: Path) -> Path:
    """Where the video `path` is written until it is finished."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class _Encoder:
    """One file being written: a video track and, where the source has sound, an audio track."""

    def __init__(self, path: Path, first: Frame, info: StreamInfo) -> None:
        self.size = height, width = first.image.shape[:2]
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
        self._stream = self._output.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        # H.264 in 4:2:0, which every player takes, has even sides only.
        self._stream.width = width + width % 2
        self._stream.height = height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._time_base
        self._stream.codec_context.gop_size = max(1, round(rate))
        self._stream.codec_context.colorspace = Colorspace.ITU709
        self._stream.codec_context.color_primaries = ColorPrimaries.BT709
        self._stream.codec_context.color_trc = ColorTrc.BT709
        self._stream.codec_context.color_range = ColorRange.MPEG
        self._frame_length = round(1 / rate / self._time_base)
        self._next_pts = 0
        self._sound = AudioTrack(info.audio_file, self._output) if info.audio_file else None

    def write(self, frame: Frame) -> None:
        height, width = self.size
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
