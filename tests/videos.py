"""Small synthetic videos for tests, and what a test wants to know about a finished one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving_pictures(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Smooth colour ramps that move, (h, w, 3) uint8 BGR: they survive H.264 within a few grey levels."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    return [
        np.stack([x * 2 + i, y * 3 + 2 * i, 255 - x - y - i], axis=-1).clip(0, 255).astype(np.uint8)
        for i in range(count)
    ]


def noisy_pictures(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Pictures of random blocks: each one is large on disk and unlike its neighbours."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 255, (count, size[0] // 8, size[1] // 8, 3), np.uint8)
    return [np.kron(b, np.ones((8, 8, 1), np.uint8)) for b in blocks]


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray] | None = None,
    *,
    rate: int = 25,
    milliseconds: Sequence[int] | None = None,
    audio: str | None = None,
    group: int = 12,
    faststart: bool = False,
    colour: tuple[int, int] | None = None,
    codec: str = "libx264",
    sound_seconds: float | None = None,
) -> Path:
    """Write a video with PyAV.

    Args:
        path: the container is that of the suffix.
        pictures: (h, w, 3) uint8 BGR, even sides; 50 moving ones by default.
        rate: frames per second.
        milliseconds: when each picture is shown, for a variable frame rate.
        audio: codec of a tone of 440 Hz as long as the pictures; None for a silent video.
        group: frames from one key frame to the next.
        faststart: the index before the pictures, so that a cut file can be read.
        colour: (how the pictures are converted, how the file is tagged), as FFmpeg's AVColorSpace numbers.
        codec: the video encoder.
        sound_seconds: how long the tone is, if not as long as the pictures.
    """
    pictures = moving_pictures(50) if pictures is None else pictures
    time_base = Fraction(1, 1000) if milliseconds else Fraction(1, rate)
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as output:
        options = {"crf": "10", "preset": "veryfast"} if codec == "libx264" else {"crf": "10", "b": "1M"}
        video = output.add_stream(codec, rate=rate, options=options)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = time_base
        video.codec_context.gop_size = group
        if colour is not None:
            video.codec_context.colorspace = colour[1]
        sound = output.add_stream(audio, rate=48000, layout="mono") if audio else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=colour[0] if colour else None)
            frame.pts, frame.time_base = milliseconds[index] if milliseconds else index, time_base
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if sound is not None:
            for frame in _tone(sound, sound_seconds or len(pictures) / rate):
                output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return path


def _tone(stream: av.AudioStream, seconds: float) -> Iterable[av.AudioFrame]:
    samples = (np.sin(2 * np.pi * 440 / 48000 * np.arange(round(48000 * seconds))) * 10000).astype(np.int16)
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=48000)
    for start in range(0, len(samples), 960):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        yield from resampler.resample(frame)


@dataclass(frozen=True)
class Video:
    """A video file, decoded by PyAV alone: independent of the code under test."""

    pictures: list[np.ndarray]
    """(h, w, 3) uint8 BGR."""
    times: list[float]
    """Presentation time of each picture in seconds."""
    duration: float
    """Seconds."""
    audio_codec: str | None
    audio_seconds: float
    audio_packets: list[bytes]


def read_video(path: Path) -> Video:
    """Decode a whole file; every error raises."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        duration = (container.duration or 0) / av.time_base
    audio_codec, audio_seconds, audio_packets = None, 0.0, []
    with av.open(str(path)) as container:
        if container.streams.audio:
            stream = container.streams.audio[0]
            audio_codec = stream.codec_context.codec.canonical_name
            audio_packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
            container.seek(0)
            audio_seconds = sum(frame.samples for frame in container.decode(stream)) / stream.codec_context.sample_rate
    return Video(
        pictures=[frame.to_ndarray(format="bgr24") for frame in frames],
        times=[float(frame.time) for frame in frames],
        duration=duration,
        audio_codec=audio_codec,
        audio_seconds=audio_seconds,
        audio_packets=audio_packets,
    )


def count_playable(path: Path) -> int:
    """How many pictures a player gets from a file that may end in the middle of one."""
    count = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                count += len(packet.decode())
            except av.error.FFmpegError:
                break
    return count


def unknown(path: Path) -> Path:
    """Write a Matroska file whose video is in a codec that nobody knows."""
    data = write_video(path).read_bytes()
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_NONE4/ISO/AVC"))
    return path


def turn(path: Path) -> None:
    """Mark an MP4 file as filmed with a turned phone: players show it turned by 90 degrees clockwise."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    clockwise = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in clockwise)
    path.write_bytes(data)


def scribble(path: Path, first: int, count: int) -> None:
    """Overwrite the data of `count` pictures from the `first` one on with noise."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size][first : first + count]
    data = bytearray(path.read_bytes())
    for packet in packets:
        data[packet.pos : packet.pos + packet.size] = np.random.default_rng(1).bytes(packet.size)
    path.write_bytes(data)


def write_sound(path: Path) -> Path:
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
