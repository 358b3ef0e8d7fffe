"""Measures everything shortly, one benchmark after the other, and makes docs/benchmarks.md of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from i2i_runtime import command
from i2i_runtime.errors import UsageError
from i2i_runtime.image import make_folder
from measuring.output import check_output, write_output
from reporting.page import make_page

_HERE = Path(__file__).resolve().parent
_REPOSITORY = _HERE.parent
_LONGEST_S = 600.0
"""A benchmark that takes longer hangs."""
_PATIENCE_S = 5.0
"""For a benchmark that is told to end."""
_QUIET, _CALM_WITHIN_S = 0.3, 75.0
"""Load of a core below which the machine is quiet, and how long to wait until it is: the load that the system tells
is a mean over the last minute, and would still be that of the benchmark before."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Scripts that make one section's figures, one after the other."""

    scripts: tuple[tuple[str, ...], ...]
    """Script and options; a word that ends in .json is a file in the results' folder."""
    minutes: float
    """That it takes on two cores, about."""
    wants_quiet: bool = False
    needs: tuple[str, ...] = ()
    """Benchmarks whose figures it compares its own with, of the same run."""


# Starts are what `compare.py` learns the noise from. torch.compile would take minutes.
_LATENCY = (
    *("latency.py", "--untrained", "resnet_9blocks:32:256", "--precisions", "fp32,int8"),
    *("--starts", "4", "--rounds", "4", "--seconds", "1", "--warm-up", "3"),
    *("--backends", "torch,onnxruntime,openvino,tensorrt,tensorrt-rtx"),
)
BENCHMARKS = {
    "latency": Benchmark(
        scripts=((*_LATENCY, "--json", "latency.json"),),
        minutes=3.7,
        wants_quiet=True,
    ),
    "compare": Benchmark(
        scripts=(
            (*_LATENCY, "--json", "latency-again.json"),
            ("compare.py", "latency.json", "latency-again.json"),
        ),
        minutes=3.7,
        wants_quiet=True,
        needs=("latency",),
    ),
    "startup": Benchmark(scripts=(("startup.py", "--rounds", "5", "--json", "startup.json"),), minutes=1.8),
    "pipeline": Benchmark(scripts=(("pipeline.py", "--short", "--json", "pipeline.json"),), minutes=2),
    "scaling": Benchmark(scripts=(("scaling.py", "--short", "--json", "scaling.json"),), minutes=2),
    "graph_io": Benchmark(scripts=(("graph_io.py", "--rounds", "10", "--json", "graph_io.json"),), minutes=0.7),
    "train_step": Benchmark(
        scripts=(("train_step.py", "--size", "64", "--width", "16", "--rounds", "5", "--json", "train_step.json"),),
        minutes=1,
    ),
}
"""By the name of its section; in this order: first what wants a quiet machine."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=_REPOSITORY / "bench-results",
    show_default="bench-results",
    help="Where the figures are kept, as JSON.",
)
@click.option("--only", metavar="LIST", help=f"Some of {','.join(BENCHMARKS)}; the other sections stay as they are.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    default=_REPOSITORY / "docs" / "benchmarks.md",
    show_default="docs/benchmarks.md",
    help="The page to make.",
)
@click.option("--page-only", is_flag=True, help="Measure nothing: make the page of the figures that are there.")
@command.debug_option
def refresh(results: Path, only: str | None, page: Path, page_only: bool, debug: bool) -> int:
    """Measure everything shortly, one benchmark after the other, and make docs/benchmarks.md of it.

    \b
      refresh.py                          all: about 16 minutes on two cores
      refresh.py --only latency,pipeline

    Let the machine do nothing else meanwhile. A benchmark that fails leaves its section as it was, and the exit code is
    1. What a benchmark prints, times too, is printed; the page has no times of a CPU.
    """  # noqa: D301
    names = _chosen(only)
    check_output(page)
    make_folder(page.parent / "images")
    failures = {} if page_only else _measured(names, results)
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    # What is in the folder of another benchmark, or of one that failed, is of another day.
    made = make_page(results, page.parent / "images", before, names.keys() - failures.keys())
    write_output(page, made.text)
    failures |= made.missing
    for name, why in failures.items():
        click.echo(f"{name}: {why}; its section stays as it was", err=True)
    click.echo(f"page: {page}")
    return int(bool(failures))


def _chosen(only: str | None) -> dict[str, Benchmark]:
    """Those, and what they need, in their order."""
    names = list(BENCHMARKS) if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise UsageError(f"--only: expected some of {','.join(BENCHMARKS)}; found {','.join(unknown)}")
    wanted = {*names, *(needed for name in names for needed in BENCHMARKS[name].needs)}
    return {name: benchmark for name, benchmark in BENCHMARKS.items() if name in wanted}


def _measured(benchmarks: dict[str, Benchmark], results: Path) -> dict[str, str]:
    """Run them; by name, why one failed."""
    make_folder(results)
    failures: dict[str, str] = {}
    for number, (name, benchmark) in enumerate(benchmarks.items(), 1):
        if failed := [needed for needed in benchmark.needs if needed in failures]:
            failures[name] = f"it needs {' and '.join(failed)}"
            continue
        click.echo(f"\n{name} ({number} of {len(benchmarks)}, about {benchmark.minutes:g} min)")
        if benchmark.wants_quiet:
            _wait_for_quiet()
        for script in benchmark.scripts:
            failure = _failure(script, results)
            if failure is not None:
                failures[name] = failure
                break
    return failures


def _failure(script: tuple[str, ...], results: Path) -> str | None:
    """Why it failed; None of one that did its work."""
    words = [str(results / word) if word.endswith(".json") else word for word in script]
    # A session of its own: what the script has started ends with it.
    process = subprocess.Popen([sys.executable, str(_HERE / words[0]), *words[1:]], start_new_session=True)
    try:
        code = process.wait(_LONGEST_S)
    except subprocess.TimeoutExpired:
        return f"{script[0]} did not end within {_LONGEST_S / 60:.0f} minutes"
    finally:
        _end(process)
    return f"{script[0]} failed with exit code {code}" if code else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started, if it still runs."""
    if process.poll() is not None:
        return
    if not hasattr(os, "killpg"):  # Windows
        process.kill()
        return
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE_S)
    # The script may have ended before what it started.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for_quiet() -> None:
    """Until the load is low, or it is no use to wait."""
    if not hasattr(os, "getloadavg"):  # Windows
        return
    until = time.monotonic() + _CALM_WITHIN_S
    is_said = False
    while (load := os.getloadavg()[0] / (os.cpu_count() or 1)) > _QUIET:
        if time.monotonic() >= until:
            click.echo(f"the machine is still busy (load {load:.1f} for each core): measured all the same")
            return
        if not is_said:
            click.echo(f"waiting up to {_CALM_WITHIN_S:.0f} s for the machine to be quiet")
            is_said = True
        time.sleep(1.0)


if __name__ == "__main__":
    command.run(refresh)
