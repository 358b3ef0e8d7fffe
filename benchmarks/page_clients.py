"""What viewers of the live page cost the run: the pipeline without any against 50, of which 10 never read.

A test pattern of 640x480 at 30 frames a second is inverted and shown: the viewers are what costs, not the model. All
rounds are of one run, in turns, with the same page; the viewers are in a process of their own, on the same machine, so
that on few cores they compete with the run for the processor, which real viewers do not. The frame rate says whether
the run still keeps pace with its source, the processor time of the server's process what is left for a model.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime import command
from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks.page import PageSink
from i2i_runtime.sources.pattern import PatternSource
from measuring.environment import environment
from measuring.figures import write_figures
from measuring.output import check_output

FPS = 30
SETTLE = 3.0
"""Seconds between two rounds: viewers come and go, and the frame rate of the round before is forgotten."""
VIEWERS = """
import selectors, socket, sys
port, reading, hung = map(int, sys.argv[1:])
selector, held = selectors.DefaultSelector(), []
for number in range(reading + hung):
    viewer = socket.create_connection(("127.0.0.1", port))
    path = "/stream.mjpg" if number % 2 else "/live"
    viewer.sendall(f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n".encode())
    held.append(viewer)
    if number < reading:
        selector.register(viewer, selectors.EVENT_READ)
buffer = bytearray(1 << 20)
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        if not key.fileobj.recv_into(buffer):
            sys.exit("the page has closed a viewer that reads")
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--clients", type=click.IntRange(min=1), default=50, show_default=True, help="Viewers.")
@click.option("--hung", type=click.IntRange(min=0), default=10, show_default=True, help="Of these, who never read.")
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True, help="With and without viewers.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=8.0, show_default=True, help="A round.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@command.debug_option
def main(clients: int, hung: int, rounds: int, seconds: float, json_file: Path | None, debug: bool) -> None:
    """Say what viewers of the live page cost the run."""
    if hung > clients:
        raise UsageError(f"--hung {hung}: expected at most the {clients} viewers (--clients)")
    check_output(json_file)
    machine = environment(sys.argv)
    page = PageSink("127.0.0.1", 0)
    pipeline = Pipeline(PatternSource((480, 640), FPS), lambda image: np.bitwise_not(image), [page])
    running = threading.Thread(target=pipeline.run)
    running.start()
    found: dict[str, list[dict[str, float]]] = {"none": [], "viewers": []}
    try:
        for _ in range(rounds):
            time.sleep(SETTLE)
            found["none"].append(measured(pipeline, seconds))
            port = page.address.rstrip("/").rpartition(":")[2]
            command_line = [sys.executable, "-c", VIEWERS, port, str(clients - hung), str(hung)]
            with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as viewers:
                assert viewers.stdout is not None
                viewers.stdout.readline()
                time.sleep(SETTLE)
                found["viewers"].append(measured(pipeline, seconds))
                if viewers.poll() is not None:
                    raise SinkError("the viewers have ended early")
                viewers.kill()
    finally:
        pipeline.stop()
        running.join()

    losses = [1 - v["fps"] / n["fps"] for n, v in zip(found["none"], found["viewers"], strict=True)]
    figures = {
        "what": f"the run without viewers against {clients}, {hung} of which never read",
        "fps": {name: spread([each["fps"] for each in some]) for name, some in found.items()},
        "cpu_ms_per_frame": {name: spread([each["cpu_ms"] for each in some]) for name, some in found.items()},
        "latency_p99_ms": {name: spread([each["p99"] for each in some]) for name, some in found.items()},
        "dropped_share": {name: spread([each["dropped"] for each in some]) for name, some in found.items()},
        "fps_lost": spread(losses),
        "source": f"test pattern, 640x480, {FPS} frames a second",
        "rounds": rounds,
        "seconds": seconds,
        "aiohttp": metadata.version("aiohttp"),
    }
    if json_file is not None:
        write_figures(json_file, machine, figures)
    table = Table(title=f"Median (least to most) of {rounds} rounds of {seconds:g} s, in turns")
    for column in ("viewers", "frames/s", "processor ms/frame", "latency p99 ms"):
        table.add_column(column)
    for name, title in (("none", "0"), ("viewers", f"{clients}, {hung} hung")):
        table.add_row(title, *(text(figures[key][name]) for key in ("fps", "cpu_ms_per_frame", "latency_p99_ms")))
    Console().print(table)
    print(f"frame rate lost: {statistics.median(losses):.2%} ({min(losses):.2%} to {max(losses):.2%})")


def measured(pipeline: Pipeline, seconds: float) -> dict[str, float]:
    """Counts of one round, from the run's own counters and this process's clock."""
    before, cpu, began = pipeline.status(), time.process_time(), time.monotonic()
    time.sleep(seconds)
    after, cpu, took = pipeline.status(), time.process_time() - cpu, time.monotonic() - began
    frames = after.results - before.results
    return {
        "fps": frames / took,
        "cpu_ms": 1000 * cpu / max(1, frames),
        "p99": after.latency_ms.p99,
        "dropped": (after.dropped - before.dropped) / max(1, after.captured - before.captured),
    }


def spread(values: list[float]) -> list[float]:
    """Median, least and most."""
    return [statistics.median(values), min(values), max(values)]


def text(values: list[float]) -> str:
    """As `spread`, for a person."""
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


if __name__ == "__main__":
    command.run(main)
