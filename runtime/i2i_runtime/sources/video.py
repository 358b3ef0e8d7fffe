"""Video files through PyAV: every frame, with its own timestamp."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from i2i_runtime.errors import SourceError, system_reason
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source, StreamInfo, frame_name, usable_rate
from i2i_runtime.sources.decoding import MAX_PIXELS, require_decoder, to_image

_MISSING_FRAMES, _MISSING_SHARE = 2, Fraction(2, 100)
"""How much less than it states a whole file may hold: muxers round, and count a frame too many."""


class VideoSource(Source):
    """All frames of a video file; damaged ones are skipped and counted, the rest goes on."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            SourceError: missing, not a video, one without a decoder, or over 67 Mpx a frame.
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
        try:
            require_decoder(self._stream, str(path))
        except SourceError:
            self._container.close()
            raise
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
                name=frame_name(self.info, index),
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
                if frame.is_corrupt:
                    # FFmpeg fills what it cannot decode with parts of other frames.
                    self.skipped.append(f"{self._path}: a damaged frame (parts of it are missing)")
                    continue
                # A stream may change its size on the way.
                if frame.width * frame.height > MAX_PIXELS:
                    raise SourceError(f"{self._path}: frames of {frame.width}x{frame.height} are over 67 Mpx")
                yield frame

    def _packets(self) -> Iterator[av.Packet[av.VideoStream] | None]:
        count, end = 0, Fraction(0)
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    count += 1
                    if packet.pts is not None and packet.time_base is not None:
                        end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base - self._start)
                elif packet.dts is None and (missing := self._missing(count, end)):
                    # The empty packet at the end: most demuxers take a cut for the end of the file.
                    self.skipped.append(f"{self._path}: the file breaks off ({missing})")
                yield packet
        except (av.error.FFmpegError, OSError) as error:
            self.skipped.append(f"{self._path}: the file breaks off ({system_reason(error)})")
            yield None  # What came before the break is good: the decoder still holds some of it.

    def _missing(self, count: int, end: Fraction) -> str | None:
        """What the container states that did not come, beyond the tolerance; None for a whole file.

        Args:
            count: packets of the video that came, damaged ones too.
            end: when the last of them ends, in seconds.
        """
        expected = self._stated_duration()
        if expected is not None and expected - end <= max(_MISSING_FRAMES / self._rate, _MISSING_SHARE * expected):
            return None
        stated = self._stream.frames
        if stated:
            # Of an edited file some frames are never shown, so the count alone is no proof.
            is_short = stated - count > max(Fraction(_MISSING_FRAMES), _MISSING_SHARE * stated)
            return f"{stated - count} of the {stated} frames it states are missing" if is_short else None
        if expected is None:
            return None
        return f"{float(expected - end):.1f} s of the {float(expected):.1f} s it states are missing"

    def _stated_duration(self) -> Fraction | None:
        """Of the video alone, in seconds: sound may be longer."""
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return stream.duration * stream.time_base
        if found := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
            # Matroska keeps it as a tag.
            return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3])
        if self._container.duration is not None and len(self._container.streams) == 1:
            return Fraction(self._container.duration, av.time_base)
        return None

    def close(self) -> None:
        """See `Source`."""
        self._container.close()
