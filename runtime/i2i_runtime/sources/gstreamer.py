"""GStreamer pipelines, such as those of a Jetson's CSI camera, where OpenCV was built with GStreamer."""

from __future__ import annotations

import re

import cv2

from i2i_runtime.errors import SourceError
from i2i_runtime.redaction import redact
from i2i_runtime.sources.capture import CaptureSource


class GStreamerSource(CaptureSource):
    """A pipeline in GStreamer's own notation that ends in BGR frames."""

    def __init__(self, pipeline: str, *, stall_s: float = 5.0) -> None:
        """Start the pipeline.

        Args:
            pipeline: for example `nvarguscamerasrc ! nvvidconv ! videoconvert ! video/x-raw,format=BGR`; an appsink
                that drops old frames is put at its end if it has none.
            stall_s: seconds without a frame after which it counts as stalled.

        Raises:
            SourceError: this OpenCV has no GStreamer, or the pipeline does not start.
        """
        label = redact(f"gst:{pipeline}")
        if not has_gstreamer():
            raise SourceError(
                f"{label}: this OpenCV {cv2.__version__} has no GStreamer, as all wheels of PyPI; "
                "use the OpenCV of JetPack or of the system (python3-opencv), or one built WITH_GSTREAMER=ON"
            )
        if "appsink" not in pipeline:
            pipeline = f"{pipeline} ! appsink drop=true max-buffers=1 sync=false"
        capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            raise SourceError(f"{label}: does not start; try it with gst-launch-1.0")
        super().__init__(capture, "GStreamer pipeline", stall_s=stall_s)


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None
