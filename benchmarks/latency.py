"""Answers in one command: how fast is this model here, what limits it, what should I use.

python benchmarks/latency.py --checkpoint runs/zebra/best.pt --report zebra-report
python benchmarks/latency.py --engine zebra.plan --json zebra.json
python benchmarks/latency.py --untrained resnet_9blocks:64:256    # no model at hand: initial weights are as fast
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from i2i_runtime import command
from i2i_runtime.errors import ModelError, UsageError
from i2i_runtime.status_line import status_line
from i2i_trainer.config import SIZE
from measuring.environment import environment
from measuring.list_option import ListOf, count
from measuring.measurement import measure_ways
from measuring.output import check_output
from measuring.record import PRECISIONS, Size
from measuring.rounds import OnProgress, Pace
from measuring.sensors import Sensors
from measuring.ways import (
    BACKENDS,
    Subject,
    Wanted,
    default_device,
    find_ways,
    make_checkpoint,
    why_not_the_gpu,
)
from reporting.report import check_report, write_report
from reporting.table import show


def _one_of(known: Sequence[str], word: str) -> str:
    if word not in known:
        raise click.BadParameter(f"expected some of {','.join(known)}; found {word!r}")
    return word


_BACKENDS = ListOf(functools.partial(_one_of, (*BACKENDS, "all")))
_PRECISIONS = ListOf(functools.partial(_one_of, PRECISIONS))
_SIZES = ListOf(lambda word: SIZE.convert(word, None, None))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="A training's, ours or someone else's; is exported."
)
@click.option("--engine", type=click.Path(path_type=Path), help="An .onnx, .plan, .engine or .xml of i2i-export.")
@click.option("--untrained", metavar="NAME:NGF[:SIZE]", help="Initial weights of a generator, instead of a file.")
@click.option("--direction", type=click.Choice(["AtoB", "BtoA"]), help="Of a CycleGAN's checkpoint, which generator.")
@click.option("--backends", type=_BACKENDS, default="all", show_default=True, help=f"Some of {','.join(BACKENDS)}.")
@click.option("--precisions", type=_PRECISIONS, default=",".join(PRECISIONS), show_default=True, help="Some of these.")
@click.option("--sizes", type=_SIZES, help="Such as 256,512x1024 (HEIGHTxWIDTH); by default the model's.")
@click.option("--batch", "batches", type=ListOf(count), default="1", show_default=True, help="Such as 1,4.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one inference; by default each library's.")
@click.option("--pictures", metavar="DIR|GLOB", help="To calibrate INT8 and to compare on; default: the checkpoint's.")
@click.option("--starts", type=click.IntRange(min=1), default=3, show_default=True, help="Processes of each way.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Turns, over all starts.")
@click.option("--seconds", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Of a turn, at least.")
@click.option("--warm-up", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Seconds, at most.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here; see compare.py.")
@click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="Write report.md with plots here.")
@command.debug_option
def latency(
    checkpoint: Path | None,
    engine: Path | None,
    untrained: str | None,
    direction: str | None,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    sizes: tuple[Size, ...] | None,
    batches: tuple[int, ...],
    device: str,
    threads: int | None,
    pictures: str | None,
    starts: int,
    rounds: int,
    seconds: float,
    warm_up: float,
    json_file: Path | None,
    report: Path | None,
    debug: bool,
) -> None:
    """Time every way to run a model here: how fast it is, what limits it, what to use.

    A checkpoint is exported by i2i-export in each precision and run by every library that is here; an engine file is
    run by those that can, beside PyTorch and plain ONNX Runtime. Each way lives in a process of its own, is warmed up
    until its time is stable, and takes turns with the others. A run is from a tensor in host memory to one in host
    memory. Beside its speed stand a way's distance from PyTorch in FP32, its memory, what the machine did meanwhile,
    and how near it comes to what the machine can do.
    """
    if (untrained is None) == (checkpoint is None and engine is None):
        raise UsageError("expected --checkpoint, --engine or both; or --untrained, such as resnet_9blocks:64:256")
    if rounds < starts:
        raise UsageError(f"--rounds {rounds}: expected at least one for each of the {starts} starts (--starts)")
    if report is not None:
        check_report(report)
    check_output(json_file)
    console, error_console = Console(), Console(stderr=True)
    # Before anything of ours makes it busy.
    machine = environment(sys.argv)
    wanted = Wanted(
        backends=BACKENDS if "all" in backends else backends,
        named=() if "all" in backends else backends,
        precisions=precisions,  # type: ignore[arg-type]
        sizes=sizes or (None,),
        batches=batches,
        device=default_device() if device == "auto" else device,  # type: ignore[arg-type]
        threads=threads,
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i2i-latency-")))
        say = stack.enter_context(status_line(error_console))
        if untrained is not None:
            say(f"drawing weights of {untrained}")
            checkpoint = _untrained(folder, untrained)
        subject = Subject(
            checkpoint=checkpoint,
            engine=engine,
            direction=direction,  # type: ignore[arg-type]
            is_trained=untrained is None,
            pictures=pictures,
        )
        ways = find_ways(subject, wanted, folder, say)
        if device == "auto":
            ways.left_out += why_not_the_gpu(machine.gpus)
        if not ways.ways:
            raise UsageError(f"nothing here can run it as asked: {'; '.join(ways.left_out) or 'see --backends'}")
        sensors: dict[str, Sensors] = {wanted.device: stack.enter_context(Sensors(wanted.device))}
        if wanted.device != "cpu":
            sensors["cpu"] = stack.enter_context(Sensors("cpu"))
        pace = Pace(starts=starts, rounds=rounds, seconds=seconds, warm_up_s=warm_up)
        record = measure_ways(subject, wanted, ways, pace, sensors, folder, machine, _shown(say))
    try:
        # First of all: minutes of measuring are in it. And they are seen where it cannot be written.
        if json_file is not None:
            record.write(json_file)
    finally:
        show(record, console)
    if json_file is not None:
        console.print(f"figures: {json_file}", highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f"report: {write_report(record, report)}", highlight=False, soft_wrap=True)
    if all(row.failure is not None for row in record.rows):
        raise ModelError("no way to run it works here: the table says why")


def _untrained(folder: Path, words: str) -> Path:
    """A checkpoint of `NAME:NGF[:SIZE]`.

    Raises:
        UsageError: other words, or no such generator.
    """
    name, _, rest = words.partition(":")
    ngf, _, size = rest.partition(":")
    try:
        height, width = SIZE.convert(size or "256", None, None)
        width_of_network = int(ngf)
    except (ValueError, click.BadParameter):
        raise UsageError(
            f"--untrained {words}: expected NAME:NGF[:SIZE], such as resnet_9blocks:64:256 or global:64:256x512"
        ) from None
    if missing := [module for module in ("torch", "onnx") if importlib.util.find_spec(module) is None]:
        raise UsageError(f"--untrained: {' and '.join(missing)} not installed; pip install 'i2i[export]'")
    path = folder / f"{name}_ngf{width_of_network}.pt"
    make_checkpoint(path, (name, width_of_network, (height, width)))
    return path


def _shown(say: Callable[[str], None]) -> OnProgress:
    return lambda what, share: say(f"{share:4.0%}  {what}")


if __name__ == "__main__":
    command.run(latency)
