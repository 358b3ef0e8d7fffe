"""Video files through PyAV: every frame, with its own timestamp."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from i2i_runtime.errors import SourceError, system_reason
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source, StreamInfo, usable_rate
from i2i_runtime.sources.decoding import MAX_PIXELS, to_image


class VideoSource(Source):
    """All frames of a video file; damaged ones are skipped and counted, the rest goes on."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            SourceError: missing, not a video, or over 67 Mpx a frame.
        """
        if not path.is_file():
            raise SourceError(f"{path}: no such video file")
        try:
            # Absolute: FFmpeg takes the relative name `10:30.mp4` for an address.
            self._container = av.open(str(path.absolute()))
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"{path}: not a readable video ({system_reason(error)})") from error
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{path}: expected a video stream, found none")
        self._path = path
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        if self._stream.width * self._stream.height > MAX_PIXELS:
            self._container.close()
            raise SourceError(f"{path}: frames of {self._stream.width}x{self._stream.height} are over 67 Mpx")
        self._rate, note = usable_rate(self._stream.average_rate or self._stream.guessed_rate)
        start = self._container.start_time
        self._start = Fraction(start, av.time_base) if start is not None else Fraction(0)
        self.skipped = []
        self.info = StreamInfo(
            name=path.stem,
            is_live=False,
            fps=self._rate,
            frame_count=self._stream.frames or None,
            audio_file=path if self._container.streams.audio else None,
            note=note,
        )

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`."""
        index = 0
        for decoded in self._decoded():
            timestamp = Fraction(index) / self._rate
            if decoded.pts is not None and decoded.time_base is not None:
                timestamp = decoded.pts * decoded.time_base - self._start
            yield Frame(
                image=to_image(decoded),
                index=index,
                captured_at=time.monotonic(),
                name=f"{self.info.name}_{index:06d}",
                timestamp=timestamp,
            )
            index += 1
        if index == 0:
            raise SourceError(f"{self._path}: not one frame could be decoded")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                self.skipped.append(f"{self._path}: a damaged frame ({system_reason(error)})")
                continue
            for frame in frames:
                # A stream may change its size on the way.
                if frame.width * frame.height > MAX_PIXELS:
                    raise SourceError(f"{self._path}: frames of {frame.width}x{frame.height} are over 67 Mpx")
                yield frame

    def _packets(self) -> Iterator[av.Packet[av.VideoStream] | None]:
        try:
            yield from self._container.demux(self._stream)
        except (av.error.FFmpegError, OSError) as error:
            self.skipped.append(f"{self._path}: the file breaks off ({system_reason(error)})")
            yield None  # What came before the break is good: the decoder still holds some of it.

    def close(self) -> None:
        """See `Source`."""
        self._container.close()
