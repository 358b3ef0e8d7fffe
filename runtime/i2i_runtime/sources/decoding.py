"""What video files and network streams share: from a decoded frame of PyAV to an image."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import Colorspace

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Image

MAX_PIXELS = 2**26
"""Of one frame, about 67 million: more is a broken or a hostile stream."""
_UNSPECIFIED = 2
"""FFmpeg's AVCOL_SPC_UNSPECIFIED; PyAV's Colorspace.DEFAULT is another number, that of tagged BT.601."""


def require_decoder(stream: av.VideoStream, where: str) -> None:
    """Refuse a stream whose codec FFmpeg does not know; all that PyAV says of one is that an attribute is missing.

    Raises:
        SourceError: it cannot be decoded; `where` names it.
    """
    # PyAV's annotation leaves out that it may be None.
    if getattr(stream, "codec_context", None) is None:
        raise SourceError(
            f"{where}: no decoder for its video codec in this FFmpeg; convert it to H.264, for example with "
            "ffmpeg -i IN -c:v libx264 OUT.mp4"
        )


def to_image(frame: av.VideoFrame) -> Image:
    """(h, w, 3) uint8 BGR, upright, in the colours of the standard that the video is in."""
    colorspace = frame.colorspace
    if colorspace == _UNSPECIFIED:
        # What players assume of untagged video: BT.709 for HD, BT.601 below.
        colorspace = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    image = np.asarray(frame.reformat(format="bgr24", src_colorspace=colorspace).to_ndarray(), np.uint8)
    # A phone's sensor is turned; the container says by how much (counter-clockwise).
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
