"""Network streams through PyAV: RTSP, RTMP, SRT, UDP, and HTTP with MJPEG or any other container."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av

from i2i_runtime.errors import SourceError, system_reason
from i2i_runtime.frame import Frame
from i2i_runtime.redaction import redact
from i2i_runtime.sources.base import (
    Source,
    SourceHealth,
    SourceRefusedError,
    SourceStalledError,
    StreamInfo,
    file_stem,
    frame_name,
    usable_rate,
)
from i2i_runtime.sources.decoding import MAX_PIXELS, require_decoder, to_image

_PROBE_S = 0.5
"""How long FFmpeg may look at a stream before it says what is in it (its own default: 5 s)."""
_DAMAGED_IN_A_ROW = 50
"""Errors without one readable packet between them after which a stream counts as broken."""
_KINDS_OF_DAMAGE = 20


class StreamSource(Source):
    """The video of an address; damaged frames are skipped and counted, and a new size simply arrives.

    It is live, unless it comes over HTTP and states its length: then every frame counts, and its end is the end.
    """

    def __init__(self, url: str, *, open_timeout_s: float = 5.0, read_timeout_s: float = 6.0) -> None:
        """Connect.

        Args:
            url: with user and password where they are needed.
            open_timeout_s: seconds until the stream must have answered and shown what is in it.
            read_timeout_s: seconds that a read may wait.

        Raises:
            SourceRefusedError: wrong password, no such path.
            SourceStalledError: no answer in time.
            SourceError: not reachable, no video, one without a decoder, or over 67 Mpx a frame.
        """
        self._address = redact(url)
        self._interrupted = threading.Event()
        self._decode_errors = 0
        self.skipped = []
        began = time.monotonic()
        try:
            self._container = av.open(url, options=_options(url), timeout=(open_timeout_s, read_timeout_s))
        except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError) as error:
            raise SourceRefusedError(
                f"{self._address}: authentication failed; check user and password ({system_reason(error)})"
            ) from error
        except av.error.HTTPNotFoundError as error:
            raise SourceRefusedError(f"{self._address}: not found there (404); check the path") from error
        except av.error.ConnectionRefusedError as error:
            raise SourceError(f"{self._address}: connection refused; is it on, and is this its port?") from error
        except (av.error.FFmpegError, OSError, ValueError) as error:
            # RTSP reports an answer that did not come as one that makes no sense.
            if isinstance(error, av.error.ExitError) or time.monotonic() - began >= open_timeout_s:
                raise SourceStalledError(f"{self._address}: no answer within {open_timeout_s:g} s") from error
            raise SourceError(f"{self._address}: cannot be opened ({redact(system_reason(error))})") from error
        try:
            self._start(url)
        except BaseException:
            self._container.close()
            raise

    def _start(self, url: str) -> None:
        if not self._container.streams.video:
            raise SourceError(f"{self._address}: expected a video stream, found none")
        self._stream = self._container.streams.video[0]
        require_decoder(self._stream, self._address)
        self._check_size(self._stream.width, self._stream.height)
        is_live = not (url.lower().startswith("http") and self._container.duration)
        if is_live:
            # Threads over whole frames, the default, hold each one back by as many frames as there are threads.
            self._stream.thread_type = "SLICE"
            self._stream.codec_context.flags |= av.codec.context.Flags.low_delay
        else:
            self._stream.thread_type = "AUTO"
        if self._stream.codec_context.name == "mjpeg":
            # Half a picture is an error only on request.
            self._stream.codec_context.options = {"err_detect": "explode"}
        rate, note = usable_rate(self._stream.average_rate or self._stream.guessed_rate)
        self.info = StreamInfo(
            name=file_stem(re.sub(r"\*\*\*@|\?.*", "", self._address)), is_live=is_live, fps=rate, note=note
        )

    def health(self) -> SourceHealth:
        """See `Source`."""
        return SourceHealth(
            name=self.info.name,
            state=self.state,
            decode_errors=self._decode_errors,
            message=self.skipped[-1] if self.skipped else None,
        )

    def interrupt(self) -> None:
        """See `Source`: it ends with the next packet, at the latest after the read timeout."""
        self._interrupted.set()

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`.

        Raises:
            SourceStalledError: nothing came for the read timeout.
        """
        first = None
        for index, decoded in enumerate(self._decoded()):
            now = time.monotonic()
            timestamp = Fraction(index) / (self.info.fps or 30)
            if decoded.pts is not None and decoded.time_base is not None:
                first = decoded.pts * decoded.time_base if first is None else first
                timestamp = decoded.pts * decoded.time_base - first
            yield Frame(
                image=to_image(decoded),
                index=index,
                captured_at=now,
                name=frame_name(self.info, index),
                timestamp=timestamp,
            )

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            if self._interrupted.is_set():
                return
            try:
                frames = self._stream.decode(packet)
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                self._damaged(system_reason(error))
                continue
            for frame in frames:
                if frame.is_corrupt:
                    # FFmpeg fills what it cannot decode with parts of other frames.
                    self._damaged("parts of it are missing")
                    continue
                self._check_size(frame.width, frame.height)
                yield frame

    def _packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        in_a_row = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    in_a_row = 0
                    yield packet
                return
            except av.error.ExitError as error:
                raise SourceStalledError(f"{self._address}: nothing comes any more") from error
            except av.error.InvalidDataError as error:
                # Rubbish between two packets: what follows may be good.
                in_a_row += 1
                self._damaged(system_reason(error))
                if in_a_row >= _DAMAGED_IN_A_ROW:
                    raise SourceError(f"{self._address}: broken ({system_reason(error)})") from error
            except (av.error.FFmpegError, OSError) as error:
                raise SourceError(f"{self._address}: connection lost ({system_reason(error)})") from error

    def _damaged(self, why: str) -> None:
        self._decode_errors += 1
        line = f"{self._address}: a damaged frame ({why})"
        if line not in self.skipped and len(self.skipped) < _KINDS_OF_DAMAGE:
            self.skipped.append(line)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise SourceRefusedError(f"{self._address}: frames of {width}x{height} are over 67 Mpx")

    def close(self) -> None:
        """See `Source`."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()


def _options(url: str) -> dict[str, str]:
    # No `fflags=nobuffer`: it throws away what was read for the look, so that the first picture comes a key frame
    # later, and gains no latency, since a reader that takes the newest frame has caught up at once.
    options = {"analyzeduration": str(int(_PROBE_S * 1e6))}
    if url.lower().startswith(("rtsp:", "rtsps:")):
        # Over UDP a single lost packet costs half a second of picture, and firewalls let none through.
        options["rtsp_transport"] = "tcp"
    return options
