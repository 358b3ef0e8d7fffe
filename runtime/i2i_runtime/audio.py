"""The sound of a video file, taken over into the file that is being written."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from typing import Any

import av

_COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
"""Sound that players expect in MP4 and MKV: taken over bit for bit. Anything else becomes AAC."""
_NOT_IN_MOV = frozenset({"opus", "flac"})
_NEED_HEADER = frozenset({"aac"})
"""Not copied from a broadcast stream (.ts), which carries no codec header; an MP4 cannot do without."""
_AAC_RATES = frozenset({96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350})
_GAP = Fraction(1, 10)
"""Seconds of missing sound from which on silence is kept; less is a container's rounding of times."""


class AudioTrack:
    """The first sound track of a file, copied into another as far as the pictures have come."""

    def __init__(self, source: Path, output: av.container.OutputContainer, begins: Fraction = Fraction()) -> None:
        """Open the sound and add a track for it, before the first packet of `output` is written.

        Args:
            source: a file with at least one sound track.
            output: the file being written; it takes the sound as it is, or as AAC.
            begins: the second of the source that becomes the beginning of `output`; sound before it is left out.

        Raises:
            FFmpegError: PyAV's, where the file cannot be opened or the track not be added.
        """
        self._output = output
        self._input = av.open(str(source.absolute()))
        stream = self._input.streams.audio[0]
        start = self._input.start_time
        self._start = begins + (Fraction(start, av.time_base) if start is not None else Fraction(0))
        self._target: Any
        self._is_copy = _can_copy(stream.codec_context, output.format.name)
        if self._is_copy:
            self._target = output.add_stream_from_template(stream)
            self._last_pts: int | None = None
        else:
            layout, rate = _aac_layout(stream.codec_context.layout), stream.codec_context.sample_rate
            self._rate = rate if rate in _AAC_RATES else 48000
            self._target = output.add_stream("aac", rate=self._rate)
            self._target.codec_context.layout = layout
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self._rate)
            self._samples: int | None = None
        packets = self._packets_of(stream)
        self._packets = dropwhile(lambda packet: packet[0] < 0, packets) if begins else packets
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

    def copy_until(self, seconds: Fraction | None) -> None:
        """Write the sound that begins before `seconds`; all that is left where that is None."""
        while self._waiting is not None and (seconds is None or self._waiting[0] < seconds):
            self._write(self._waiting[1])
            self._waiting = next(self._packets, None)

    def _write(self, packet: Any) -> None:
        try:
            if self._is_copy:
                self._copy(packet)
            else:
                for frame in packet.decode():
                    self._encode(frame)
        except av.error.InvalidDataError:
            return

    def _copy(self, packet: Any) -> None:
        packet.pts -= round(self._start / packet.time_base)
        packet.dts = packet.pts
        if self._last_pts is not None and packet.pts <= self._last_pts:
            return  # Time runs backwards in a damaged file only; no container takes it.
        self._last_pts = packet.pts
        packet.stream = self._target
        self._output.mux(packet)

    def _encode(self, frame: Any) -> None:
        # Frames of AAC follow each other to the sample, while times come rounded: count samples, and jump over gaps.
        if frame.pts is not None:
            begins = round((frame.pts * frame.time_base - self._start) * self._rate)
            if self._samples is None or begins - self._samples > _GAP * self._rate:
                self._samples = begins
        frame.pts = None
        for resampled in self._resampler.resample(frame):
            resampled.pts = self._samples = self._samples or 0
            resampled.time_base = Fraction(1, self._rate)
            self._samples += resampled.samples
            self._output.mux(self._target.encode(resampled))

    def close(self) -> None:
        """Write what the encoder still holds, and close the source."""
        if not self._is_copy:
            self._output.mux(self._target.encode(None))
        self._input.close()


def _can_copy(codec_context: Any, container: str) -> bool:
    # The codec's name, not its decoder's: that of mp3 is `mp3float`.
    codec = codec_context.codec.canonical_name
    if codec in _NEED_HEADER and not codec_context.extradata:
        return False
    return codec in _COPIED_CODECS and not (container == "mov" and codec in _NOT_IN_MOV)


def _aac_layout(layout: Any) -> str:
    """A layout by name; PCM often says only how many channels there are."""
    if not layout.name.endswith("channels"):
        return str(layout.name)
    return "mono" if layout.nb_channels == 1 else "stereo"
