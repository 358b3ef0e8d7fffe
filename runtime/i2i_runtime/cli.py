"""`i2i-run`: translate live video, video files and pictures with an exported model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i2i_runtime import __version__, command

if TYPE_CHECKING:
    from i2i_runtime.pipeline import Pipeline, Result
    from i2i_runtime.request import Request
    from i2i_runtime.sources.base import Source

_VIEWS = ("result", "side-by-side", "wipe", "blend", "input")
_PAGE = ("127.0.0.1", 8000)
"""Where the live page is served unless another address is given."""


def _value_range(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"expected LOW,HIGH such as -1,1 or 0,255, found {text!r}") from None
    if low >= high:
        raise click.BadParameter(f"expected LOW below HIGH, found {text!r}")
    return low, high


def _attempts(context: click.Context, parameter: click.Parameter, text: str | None) -> int | str | None:
    """`forever` is None, `never` 0; nothing given is told apart from both."""
    if text is None:
        return "unset"
    if text in ("forever", "never"):
        return None if text == "forever" else 0
    if not text.isdecimal():
        raise click.BadParameter(f"expected a number, forever or never, found {text!r}")
    return int(text)


def _host_and_port(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    host = host or ("" if port.isdecimal() else port)
    port = port if port.isdecimal() else str(_PAGE[1])
    if int(port) > 65535:
        raise click.BadParameter(f"expected HOST:PORT with a port up to 65535, found {text!r}")
    return host.strip("[]") or _PAGE[0], int(port)


def _tile(context: click.Context, parameter: click.Parameter, text: str | None) -> str | tuple[int, int] | None:
    if text in (None, "auto"):
        return text
    parts = (text or "").lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected HEIGHTxWIDTH such as 512x512, found {text!r}")
    return int(parts[0]), int(parts[-1])


class _Grouped(click.Command):
    """Shows the options of `--help` under headings; an option belongs to the last heading above it."""

    headings = {  # noqa: RUF012  (click makes one instance)
        "engine": "Model",
        "camera": "Source, one of",
        "output": "Sinks, any number",
        "view": "Picture",
        "debug": "Help",
    }

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        heading = "Options"
        for parameter in self.get_params(context):
            heading = self.headings.get(parameter.name or "", heading)
            record = parameter.get_help_record(context)
            if record is not None:
                sections.setdefault(heading, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


@click.command(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--engine",
    metavar="FILE|auto",
    multiple=True,
    help="Exported model (.onnx, .plan, .xml); repeat it to switch while it runs. auto: the fastest for --model.",
)
@click.option(
    "--model", type=click.Path(path_type=Path), metavar="FILE", help="With --engine auto: the exported model."
)
@click.option("--explain", is_flag=True, help="With --engine auto: show what was measured.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt", "gpu", "npu"]),
    default="auto",
    show_default=True,
    help="Where to run: cuda and tensorrt are NVIDIA's, gpu and npu Intel's.",
)
@click.option("--backend", type=click.Choice(["onnxruntime", "openvino"]), help="What runs an .onnx [onnxruntime].")
@click.option("--precision", type=click.Choice(["f32", "bf16", "f16"]), help="What OpenVINO computes in [f32].")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for one inference.")
@click.option("--trust-engine", is_flag=True, help="Run a plan without a sidecar, or one that was built elsewhere.")
@click.option(
    "--fit",
    type=click.Choice(["letterbox", "stretch"]),
    default="letterbox",
    show_default=True,
    help="How frames get the size of a fixed-size model: keep the aspect and pad, or fill.",
)
@click.option(
    "--tile",
    is_flag=False,
    flag_value="auto",
    metavar="[HxW]",
    callback=_tile,
    help="Translate large frames in overlapping tiles at full resolution instead of shrinking them.",
)
@click.option("--overlap", type=click.IntRange(min=0), metavar="PIXELS", help="With --tile: how far tiles overlap.")
@click.option("--style", type=click.IntRange(min=0), help="With a model of styles: which one [0].")
@click.option(
    "--value-range",
    metavar="LOW,HIGH",
    callback=_value_range,
    help="Model without a card: its values for black and white [-1,1].",
)
@click.option("--colour", type=click.Choice(["RGB", "BGR"]), help="Model without a card: its colour order [RGB].")
@click.option("--camera", metavar="N[:WxH@FPS]", help="A camera or its device, live: the newest frame wins.")
@click.option("--video", metavar="FILE", help="A video file: every frame, with its sound.")
@click.option("--images", metavar="DIR|GLOB", help="A folder, a picture or a glob pattern.")
@click.option("--instances", metavar="DIR", help="With a model of label maps: instance maps that belong to --images.")
@click.option("--rtsp", metavar="URL", help="A network camera.")
@click.option("--url", metavar="URL", help="Any other stream: http (MJPEG), rtmp, srt, udp.")
@click.option("--gstreamer", metavar="PIPELINE", help="Where OpenCV has GStreamer, for example a Jetson's CSI camera.")
@click.option("--screen", is_flag=False, flag_value="auto", metavar="[N]", help="This computer's screen.")
@click.option(
    "--test-pattern", is_flag=False, flag_value="auto", metavar="[WxH@FPS]", help="A moving test picture [640x480@30]."
)
@click.option("--source", multiple=True, metavar="ADDRESS", help="Any of them; repeat it for several at once.")
@click.option("--source-env", metavar="VARIABLE", help="As --source, from the environment: a password stays out of ps.")
@click.option(
    "--reconnect",
    metavar="N|forever|never",
    callback=_attempts,
    help="How often to try again when a live source is lost [forever], and, if given, when it is not there at first.",
)
@click.option(
    "--open-timeout", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Seconds a source may take."
)
@click.option(
    "--output",
    metavar="PATH|URL",
    multiple=True,
    help="An .mp4, .mov or .mkv video, an rtmp:// or rtsp:// server, virtual-camera, else a folder of PNG pictures.",
)
@click.option("--show", is_flag=True, help="A window; h shows its keys.")
@click.option(
    "--serve",
    is_flag=False,
    flag_value=f"{_PAGE[0]}:{_PAGE[1]}",
    metavar="[HOST:PORT]",
    callback=_host_and_port,
    help=f"A live page for browsers [{_PAGE[0]}:{_PAGE[1]}], with /status.json and /metrics.",
)
@click.option(
    "--serve-name", metavar="NAME", multiple=True, help="A further name that browsers may ask for the page by."
)
@click.option("--token", metavar="TEXT", envvar="I2I_TOKEN", help="What a page that others reach asks for [random].")
@click.option(
    "--encoder", default="libx264", show_default=True, metavar="NAME", help="Of videos; auto: hardware first."
)
@click.option("--fixed-size", is_flag=True, help="Letterbox when the source changes size, instead of a new video file.")
@click.option(
    "--segment",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Begin a new video file every so often [live sources: 21600].",
)
@click.option(
    "--captures",
    type=click.Path(path_type=Path),
    default=Path("captures"),
    show_default=True,
    metavar="DIR",
    help="Where snapshots and recordings go.",
)
@click.option("--keep-going", is_flag=True, help="Go on with the other sinks when one fails.")
@click.option(
    "--view", type=click.Choice(_VIEWS), default=_VIEWS[0], show_default=True, help="What is shown and saved."
)
@click.option("--side-by-side", is_flag=True, help="Input and result beside each other.")
@click.option("--mirror", is_flag=True, help="Turn frames left to right, as a mirror shows them.")
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N", help="Translate each Nth frame only.")
@click.option("--max-fps", type=click.FloatRange(min=0, min_open=True), help="Translate no more frames a second.")
@click.option(
    "--skip-similar",
    is_flag=False,
    flag_value="4",
    type=click.FloatRange(0, 255, max_open=True),
    metavar="[LEVELS]",
    help="Show the last result again while nothing moves: no block differs by more than so many grey levels.",
)
@click.option(
    "--stabilize",
    is_flag=False,
    flag_value="0.7",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="[STRENGTH]",
    help="Against flicker, from 0 to below 1.",
)
@click.option("--strict", is_flag=True, help="End at the first frame without a result or that cannot be decoded.")
@command.debug_option
@click.option("--doctor", is_flag=True, help="Examine this machine: versions, devices, encoders, cameras, conflicts.")
@click.version_option(__version__, prog_name="i2i-run")
def i2i_run(debug: bool, doctor: bool, **options: Any) -> int | None:
    """Translate video, camera or pictures with an exported generator.

    \b
    i2i-run --camera 0 --engine zebra.onnx --show
    i2i-run --video in.mp4 --engine zebra.onnx --output out.mp4
    i2i-run --images photos --engine zebra.onnx --output results
    i2i-run --rtsp rtsp://10.0.0.5/stream --engine auto --model zebra.onnx --serve
    """  # noqa: D301
    # Imports wait until the arguments make sense: --help and typing errors answer at once.
    if doctor:
        from rich.console import Console

        from i2i_runtime.doctor import examine, show

        report = examine()
        show(report, Console())
        return report.exit_code

    from i2i_runtime.request import Request

    request = Request(**options)
    request.check()

    from rich.console import Console

    from i2i_runtime import launch
    from i2i_runtime.engines.open import wheel_conflicts
    from i2i_runtime.pipeline import Pipeline

    for conflict in wheel_conflicts():
        _note(f"warning: {conflict}")
    if not request.sources:
        launch.choose(request, click.echo).close()
        return None
    addresses = launch.addresses(request)
    sinks = launch.open_sinks(request, addresses)
    with launch.open_models(request, _note) as model:
        takes_labels = model.card.labels is not None
        sources = [launch.open_labels(request, model)] if takes_labels else launch.open_sources(request, addresses)
        launch.introduce(model, sinks)
        controls = request.controls()
        model.bind(controls)
        pipeline = Pipeline(sources, model, sinks, options=launch.options(request, sinks), controls=controls)
        _run(pipeline, sources, request, Console(stderr=True))
    return None


def _note(line: str) -> None:
    click.echo(line, err=True)


def _run(pipeline: Pipeline, sources: list[Source], request: Request, console: Any) -> None:
    from i2i_runtime.status_line import status_line

    count = sources[0].info.frame_count if len(sources) == 1 else None
    with command.graceful_stop() as stop_request, status_line(console) as show_line:

        def on_tick(status: Any) -> None:
            if stop_request:
                pipeline.stop()
            show_line(status.line(count))

        try:
            result = pipeline.run(on_tick, _printer(console))
        except Exception:
            _note(pipeline.status().line(count))
            for summary in pipeline.summaries():
                _note(f"kept: {summary}")
            raise
    _report(result)
    stop_request.raise_if_set(f"stopped; {'; '.join(result.outputs)}")


def _printer(console: Any) -> Callable[[str], None]:
    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return say


def _report(result: Result) -> None:
    for line, times in Counter(result.skipped).items():
        _note(f"skipped: {line}{f' ({times} times)' if times > 1 else ''}")
    status = result.status
    parts = [f"{status.captured} frames in", f"{status.translated} translated"]
    parts += [f"{count} {what}" for what, count in (("reused", status.reused), ("skipped", status.skipped)) if count]
    parts += [f"{status.dropped} dropped", f"{status.failed} failed"]
    reconnects = sum(source.reconnects for source in status.sources)
    parts += [f"{reconnects} reconnects"] if reconnects else []
    click.echo(
        f"{', '.join(parts)} in {status.elapsed:.1f} s ({status.results / max(status.elapsed, 1e-9):.1f} fps, "
        f"translate p50 {status.translate_ms.p50:.1f} ms p99 {status.translate_ms.p99:.1f} ms)"
    )
    if status.reused:
        click.echo(f"{status.reused / status.results:.0%} of the results needed no inference")
    if status.not_written:
        click.echo(f"{status.not_written} translated frames were not written: a sink was too slow")
    for output in result.outputs:
        click.echo(output)


def main() -> None:
    """Entry point of the `i2i-run` command."""
    command.run(i2i_run)
