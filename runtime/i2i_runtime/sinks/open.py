"""From a path or an address to a sink."""

from __future__ import annotations

import re
from pathlib import Path

from i2i_runtime.sinks.base import Sink

_ADDRESS = re.compile(r"(rtmps?|rtsp|srt|udp):/{1,2}", re.IGNORECASE)
_VIRTUAL_CAMERA = re.compile(r"virtual-camera(?::(.+))?")


def open_sink(
    where: str | Path, *, encoder: str | None = None, fixed_size: bool = False, segment_s: float | None = None
) -> Sink:
    """What a user names: a video, a server, a virtual camera, else a folder of pictures.

    Args:
        where: `out.mp4` (or .mov, .mkv), `rtmp://host/app/key` (or rtsp, srt, udp), `virtual-camera` or
            `virtual-camera:/dev/video7`, or a folder.
        encoder: one of `h264.ENCODERS`; by default libx264 for a file, and for a server what is there (`auto`).
        fixed_size: a video keeps its first size: frames of other sizes get black bars instead of a new file.
        segment_s: seconds after which a video begins a new file; see `VideoSink`.

    Raises:
        SinkError: it cannot be written, or has the name of a file kind that is not a video.
        UsageError: there is no such encoder, or `segment_s` is no time.
        DeviceError: the encoder does not work here.
    """
    # Each member drags its own library in: only the one that is asked for is loaded.
    text = str(where)
    if address := _ADDRESS.match(text):
        from i2i_runtime.sinks.publish import PublishSink

        # A Path has lost one of the slashes.
        return PublishSink(f"{address[1]}://{text[address.end() :]}", encoder=encoder or "auto")
    if camera := _VIRTUAL_CAMERA.fullmatch(text):
        from i2i_runtime.sinks.virtual_camera import VirtualCameraSink

        return VirtualCameraSink(camera[1])
    path = Path(where)
    if path.suffix and not path.is_dir():
        from i2i_runtime.sinks.video import VideoSink

        return VideoSink(path, encoder=encoder or "libx264", fixed_size=fixed_size, segment_s=segment_s)
    from i2i_runtime.sinks.images import ImagesSink

    return ImagesSink(path)
