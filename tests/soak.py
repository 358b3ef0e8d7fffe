"""Leave the runtime running on a camera that misbehaves, and see what it costs.

    python tests/soak.py [--minutes 20] [--drop-every 60] [--corrupt 0.01] [--json FILE]

A camera in another process sends 30 frames a second over RTSP, of which some arrive damaged, and breaks the connection
now and then. The pipeline translates them into a video file and a live page. At the end it must have reconnected as
often as the connection was broken, account for every frame, hold no more memory, threads or files than before.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fake_cameras import FakeRtspCamera
from onnx_models import make_card, negative_model

from i2i_runtime import Pipeline, Translator, open_sink, open_source
from i2i_runtime.sinks.page import PageSink
from i2i_runtime.stats import Status

FPS = 30
_WARM_UP = 0.15
"""Share of the run in which memory may still grow: caches fill, the decoder finds its size."""


@dataclass(frozen=True)
class Outcome:
    """What a soak found."""

    minutes: float
    drops: int
    """Connections that the camera broke."""
    reconnects: int
    sent: int
    """Frames that the camera sent, whole or damaged."""
    corrupted: int
    captured: int
    translated: int
    dropped: int
    failed: int
    not_written: int
    decode_errors: int
    rss_slope: float
    """MiB a minute after warming up, by least squares."""
    rss_growth: float
    """MiB from the first to the last tenth after warming up."""
    threads: tuple[int, int]
    """Before and after."""
    files: tuple[int, int]
    written: int
    """Frames in the video."""

    def failures(self) -> list[str]:
        """What does not hold."""
        found = []
        if self.reconnects != self.drops:
            found.append(f"{self.drops} connections were broken, {self.reconnects} made again")
        if self.captured != self.translated + self.dropped + self.failed:
            found.append(
                f"{self.captured} frames captured, {self.translated + self.dropped + self.failed} accounted for"
            )
        # With each break the frames in the network and until the next key frame are gone: a second's worth at most.
        if not self.sent - self.corrupted - (self.drops + 1) * 2 * FPS <= self.captured <= self.sent:
            found.append(f"{self.sent} frames sent, {self.captured} captured")
        if self.rss_slope > 1 or self.rss_growth > 20:
            found.append(f"memory grows by {self.rss_slope:.2f} MiB a minute, {self.rss_growth:.1f} MiB in all")
        # Some garbled data still decodes, and some frames of a broken connection never arrive.
        if self.corrupted > 10 and self.decode_errors < self.corrupted / 3:
            found.append(f"{self.corrupted} frames were damaged, {self.decode_errors} noticed")
        for what, (before, after) in (("threads", self.threads), ("open files", self.files)):
            if after > before:
                found.append(f"{before} {what} before, {after} after")
        if self.written + self.not_written != self.translated:
            found.append(f"{self.translated} frames translated, {self.written} written, {self.not_written} not")
        return found


def soak(folder: Path, seconds: float, drop_every: float, corrupt: float) -> Outcome:
    """Run it."""
    model = negative_model(folder / "model.onnx", make_card(None))
    with _Camera(corrupt) as camera, Translator(model) as translator:
        _run(folder / "warm.mp4", camera, translator, 3.0, 1e9)  # libraries start their threads and open their files
        before = _resources()
        drops_before, counted_before = camera.counts()["drops"], camera.counts()
        status, written, samples = _run(folder / "soak.mp4", camera, translator, seconds, drop_every)
        after = _resources()
        counts = camera.counts()
    times, memory = np.array(samples).T
    settled = times >= _WARM_UP * seconds
    times, memory = times[settled], memory[settled]
    tenth = max(1, len(memory) // 10)
    (source,) = status.sources
    return Outcome(
        minutes=seconds / 60,
        drops=counts["drops"] - drops_before,
        reconnects=source.reconnects,
        sent=counts["sent"] - counted_before["sent"],
        corrupted=counts["corrupted"] - counted_before["corrupted"],
        captured=status.captured,
        translated=status.translated,
        dropped=status.dropped,
        failed=status.failed,
        not_written=status.not_written,
        decode_errors=source.decode_errors,
        rss_slope=float(np.polyfit(times / 60, memory, 1)[0]) if len(times) > 2 else 0.0,
        rss_growth=float(np.median(memory[-tenth:]) - np.median(memory[:tenth])),
        threads=(before[0], after[0]),
        files=(before[1], after[1]),
        written=written,
    )


def _run(
    output: Path, camera: _Camera, translator: Translator, seconds: float, drop_every: float
) -> tuple[Status, int, list[tuple[float, float]]]:
    samples = []
    page = PageSink("127.0.0.1", 0)
    pipeline = Pipeline(open_source(camera.url), translator, [open_sink(output), page])
    began = time.monotonic()
    next_drop, next_sample, next_line = drop_every, 0.0, 60.0

    def on_tick(status: Status) -> None:
        nonlocal next_drop, next_sample, next_line
        elapsed = time.monotonic() - began
        if elapsed >= seconds:
            pipeline.stop()
        # None so near the end that it could not be mended in time.
        elif elapsed >= next_drop and seconds - elapsed > 3:
            next_drop += drop_every
            camera.drop()
        if elapsed >= next_sample:
            next_sample += max(1.0, seconds / 400)
            samples.append((elapsed, _rss_mib()))
        if elapsed >= next_line:
            next_line += 60
            print(f"{elapsed / 60:.0f} min: {_rss_mib():.1f} MiB, {status.line()}", flush=True)

    result = pipeline.run(on_tick)
    written = int(result.outputs[0].split()[0])
    return result.status, written, samples


def _resources() -> tuple[int, int]:
    """Threads and open files of this process, once what is ending has ended."""
    gc.collect()
    time.sleep(1)
    return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class _Camera:
    """The camera in its own process, which answers to lines."""

    def __init__(self, corrupt: float) -> None:
        self._corrupt = corrupt
        self._lock = threading.Lock()

    def __enter__(self) -> _Camera:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--as-camera", str(self._corrupt)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self._ask("url")["url"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def drop(self) -> None:
        self._ask("drop")

    def counts(self) -> dict[str, int]:
        return self._ask("counts")

    def _ask(self, word: str) -> dict:
        with self._lock:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


def _be_a_camera(corrupt: float) -> None:
    with FakeRtspCamera(size=(240, 320), fps=FPS, corrupt=corrupt) as camera:
        for line in sys.stdin:
            if line.strip() == "drop":
                camera.drop()
            counts = {"sent": camera.sent, "corrupted": camera.corrupted, "drops": camera.drops}
            print(json.dumps({"url": camera.url, **counts}), flush=True)


def main() -> int:
    """Soak, print what was found and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--drop-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--corrupt", type=float, default=0.01, metavar="SHARE")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--as-camera", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_camera is not None:
        _be_a_camera(arguments.as_camera)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        outcome = soak(Path(folder), arguments.minutes * 60, arguments.drop_every, arguments.corrupt)
    for name, value in asdict(outcome).items():
        print(f"{name:>14}  {value:.3f}" if isinstance(value, float) else f"{name:>14}  {value}")
    failures = outcome.failures()
    print("\n".join(failures) or "everything holds")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**asdict(outcome), "failures": failures}, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
