"""H.264 encoders through PyAV: the processor's, or a graphics chip's where one answers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from i2i_runtime.errors import DeviceError, UsageError, reason
from i2i_runtime.frame import Image

SOFTWARE = "libx264"


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """FFmpeg's options for one encoder."""

    file: dict[str, str] | None
    """For a file: constant quality, about that of x264 at CRF 18. None where the encoder knows bit rates only."""
    live: dict[str, str] = field(default_factory=dict)
    """For a stream: no frame is kept back, and a key frame may be asked for at any time."""
    pixel_format: str = "yuv420p"


_ENCODERS = {
    "h264_nvenc": _Settings(
        file={"preset": "p4", "rc": "vbr", "cq": "19"},
        live={"preset": "p3", "tune": "ull", "zerolatency": "1", "forced-idr": "1"},
    ),
    "h264_qsv": _Settings(
        file={"preset": "veryfast", "global_quality": "20"},
        live={"preset": "veryfast", "async_depth": "1", "forced_idr": "1"},
        pixel_format="nv12",
    ),
    "h264_videotoolbox": _Settings(file=None, live={"realtime": "1"}),
    "h264_amf": _Settings(
        file={"rc": "cqp", "qp_i": "20", "qp_p": "22"}, live={"usage": "ultralowlatency", "forced_idr": "1"}
    ),
    "h264_v4l2m2m": _Settings(file=None),
    SOFTWARE: _Settings(
        file={"preset": "veryfast", "crf": "18"},
        live={"preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"},
    ),
}
"""In the order in which `auto` tries them; the last one works everywhere."""
ENCODERS = ("auto", *_ENCODERS)
"""What may be asked for."""
_FILE_BITS, _LIVE_BITS = 0.2, 0.1
"""Bits for a pixel of a frame where a bit rate must be named: 12 and 6 Mbit/s for 1080p at 30 frames a second."""


def check_encoder(encoder: str) -> None:
    """Check, before a run begins, that an encoder can be had.

    Raises:
        UsageError: not one of `ENCODERS`.
        DeviceError: it does not work on this machine.
    """
    if encoder not in ENCODERS:
        raise UsageError(f"encoder {encoder!r}: expected one of {', '.join(ENCODERS)}")
    if encoder not in ("auto", SOFTWARE):
        problem = why_not(encoder, (480, 640))
        if problem:
            raise DeviceError(f"encoder {encoder}: does not work here ({problem}); use auto or {SOFTWARE}")


def choose_encoder(encoder: str, size: tuple[int, int], *, live: bool = False) -> str:
    """The encoder to take for pictures of that (height, width): the first one that works for `auto`."""
    if encoder != "auto":
        return encoder
    return next(name for name in _ENCODERS if name == SOFTWARE or why_not(name, even(size), live=live) is None)


@cache
def why_not(encoder: str, size: tuple[int, int], *, live: bool = False) -> str | None:
    """Why an encoder fails for pictures of that (height, width), both even; None if one was really encoded.

    That an encoder is compiled in says nothing: it needs a chip and its driver, and chips refuse small sizes and large
    ones. The answer is kept, so that each is asked once in a process.
    """
    try:
        with av.open(os.devnull, "w", format="null") as output:
            stream = add_stream(output, encoder, size, Fraction(30), Fraction(1, 30), live=live)
            picture = to_picture(np.zeros((*size, 3), np.uint8), stream.pix_fmt)
            picture.pts, picture.time_base = 0, Fraction(1, 30)
            packets = [*stream.encode(picture), *stream.encode(None)]
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return getattr(error, "strerror", None) or reason(error)
    return None if packets else "it gave nothing back"


def add_stream(
    output: av.container.OutputContainer,
    encoder: str,
    size: tuple[int, int],
    rate: Fraction,
    time_base: Fraction,
    *,
    live: bool = False,
) -> Any:
    """Add an H.264 track in 4:2:0 and BT.709, with a key frame each second.

    Args:
        output: the file or stream being written.
        encoder: one of `ENCODERS`, but not `auto`.
        size: (height, width), both even.
        rate: frames per second, as far as it is known.
        time_base: of the frames that will come, in seconds.
        live: for somebody who watches now: at a steady bit rate, without frames that wait for later ones.

    Returns:
        PyAV's video stream.

    Raises:
        ValueError: this PyAV was built without the encoder.
    """
    settings = _ENCODERS[encoder]
    options = settings.live if live else settings.file
    stream: Any = output.add_stream(encoder, rate=rate, options=dict(options or {}))
    stream.height, stream.width = size
    stream.pix_fmt = settings.pixel_format
    context = stream.codec_context
    context.time_base = time_base
    context.gop_size = max(1, round(rate))
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.MPEG
    if live or options is None:
        context.bit_rate = max(100_000, round(size[0] * size[1] * rate * (_LIVE_BITS if live else _FILE_BITS)))
    if live:
        context.max_b_frames = 0
        stream.options.update(maxrate=str(context.bit_rate), bufsize=str(context.bit_rate))
    return stream


def even(size: tuple[int, int]) -> tuple[int, int]:
    """The next (height, width) with even sides: H.264 in 4:2:0, which every player takes, has no others."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def to_picture(image: Image, pixel_format: str = "yuv420p") -> av.VideoFrame:
    """(h, w, 3) uint8 BGR to a BT.709 picture with even sides, made even by repeating the edge."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
    return av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
        format=pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
