"""`i2i-run`: translate live video, video files and pictures with an exported model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from i2i_runtime import __version__, command
from i2i_runtime.errors import UsageError

if TYPE_CHECKING:
    from i2i_runtime.engines.base import Engine
    from i2i_runtime.image import FitMode
    from i2i_runtime.pipeline import Result
    from i2i_runtime.sinks.base import Sink
    from i2i_runtime.sources.base import Source

Device = Literal["auto", "cpu", "cuda"]


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


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--engine", type=click.Path(path_type=Path), required=True, help="Exported model (.onnx, .plan, .xml).")
@click.option("--video", metavar="FILE", help="Translate a video file: every frame, with its sound.")
@click.option("--camera", metavar="N|DEVICE", help="Translate a camera live: the newest frame wins.")
@click.option("--images", metavar="DIR|GLOB", help="Translate a folder, a picture or a glob pattern.")
@click.option("--instances", metavar="DIR", help="With a model of label maps: instance maps that belong to --images.")
@click.option("--style", type=click.IntRange(min=0), help="With a model of styles: which one [0].")
@click.option(
    "--output",
    "outputs",
    metavar="PATH",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An .mp4, .mov or .mkv video, else a folder of PNG pictures. May be repeated.",
)
@click.option("--show", is_flag=True, help="Show the result in a window; q or Esc ends.")
@click.option("--side-by-side", is_flag=True, help="Input and result beside each other.")
@click.option(
    "--fit",
    type=click.Choice(["letterbox", "stretch"]),
    default="letterbox",
    show_default=True,
    help="How frames get the size of a fixed-size model: keep the aspect and pad, or fill.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to run."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for one inference.")
@click.option("--trust-engine", is_flag=True, help="Run a plan without a sidecar, or one that was built elsewhere.")
@click.option(
    "--value-range",
    metavar="LOW,HIGH",
    callback=_value_range,
    help="Model without a card: its values for black and white [-1,1].",
)
@click.option("--colour", type=click.Choice(["RGB", "BGR"]), help="Model without a card: its colour order [RGB].")
@command.debug_option
@click.version_option(__version__, prog_name="i2i-run")
def i2i_run(
    engine: Path,
    video: str | None,
    camera: str | None,
    images: str | None,
    instances: str | None,
    style: int | None,
    outputs: tuple[Path, ...],
    show: bool,
    side_by_side: bool,
    fit: FitMode,
    device: Device,
    threads: int | None,
    trust_engine: bool,
    value_range: tuple[float, float] | None,
    colour: Literal["RGB", "BGR"] | None,
    debug: bool,
) -> None:
    """Translate video, camera or pictures with an exported generator.

    \b
    i2i-run --camera 0 --engine zebra.onnx --show
    i2i-run --video in.mp4 --engine zebra.onnx --output out.mp4
    i2i-run --images photos --engine zebra.onnx --output results
    """  # noqa: D301
    if sum(source is not None for source in (video, camera, images)) != 1:
        raise UsageError("expected exactly one of --video FILE, --camera N or --images DIR")
    if not outputs and not show:
        raise UsageError("nothing to do with the result: give --output PATH, --show or both")
    if len({output.resolve() for output in outputs}) < len(outputs):
        raise UsageError("two --output with the same name; choose another for one of them")

    # Imports wait until the arguments make sense: --help and typing errors answer at once.
    from rich.console import Console

    from i2i_runtime.engines.open import open_engine, wheel_conflicts
    from i2i_runtime.translator import Assumptions, Translator

    console = Console(stderr=True)
    for conflict in wheel_conflicts():
        click.echo(f"warning: {conflict}", err=True)
    if video is not None:
        _refuse_to_overwrite(Path(video), outputs)
    sinks = _open_sinks(outputs, show)
    opened = open_engine(engine, device, threads, trust=trust_engine)
    if opened.card is not None and opened.card.labels is not None:
        if images is None or side_by_side:
            raise UsageError(f"{engine}: takes label maps; expected --images LABELS, without --side-by-side")
        _translate_labels(opened, images, instances, style, outputs, sinks, console)
        return
    if instances is not None or style is not None:
        raise UsageError(f"--instances and --style: expected a model of label maps, found {engine} for pictures")
    assumptions = Assumptions(value_range=value_range, colour=colour)
    with Translator(opened, fit=fit, assumptions=assumptions) as translator:
        if translator.assumed:
            click.echo(f"note: {translator.assumed}", err=True)
        source = _open_source(video, camera, images, outputs)
        _introduce(translator)
        _run(source, translator, sinks, side_by_side, console)


def _translate_labels(
    engine: Engine,
    labels: str,
    instances: str | None,
    style: int | None,
    outputs: tuple[Path, ...],
    sinks: list[Sink],
    console: Any,
) -> None:
    from i2i_runtime.label_translator import LabelTranslator
    from i2i_runtime.sources.label_maps import LabelMapsSource, require_instances

    with LabelTranslator(engine, style=style) as translator:
        require_instances(translator.has_instances, instances, engine.name)
        source = LabelMapsSource(labels, instances)
        _keep_apart(outputs, source.folders)
        _introduce(translator)
        _run(source, translator, sinks, False, console)


def _introduce(translator: Any) -> None:
    size = translator.card.size
    model_size = f"{size.width}x{size.height}" if size.width else "any size"
    click.echo(f"{translator.card.name}: {model_size}, {translator.provider}", err=True)


def _keep_apart(outputs: tuple[Path, ...], folders: set[Path]) -> None:
    for output in outputs:
        if output.resolve() in folders:
            raise UsageError(f"--output {output} holds the input pictures; choose another folder")


def _refuse_to_overwrite(video: Path, outputs: tuple[Path, ...]) -> None:
    from i2i_runtime.sinks.video import partial_path

    for output in outputs:
        # The input may be the partial file that an earlier run left when it was killed.
        if any(path.exists() and video.exists() and path.samefile(video) for path in (output, partial_path(output))):
            raise UsageError(f"--output {output} would overwrite the input {video}; choose another name")


def _open_sinks(outputs: tuple[Path, ...], show: bool) -> list[Sink]:
    from i2i_runtime.sinks.open import open_sink

    sinks = [open_sink(path) for path in outputs]
    if show:
        from i2i_runtime.sinks.window import WindowSink

        sinks.append(WindowSink())
    return sinks


def _open_source(video: str | None, camera: str | None, images: str | None, outputs: tuple[Path, ...]) -> Source:
    if video is not None:
        from i2i_runtime.sources.video import VideoSource

        return VideoSource(Path(video))
    if camera is not None:
        from i2i_runtime.sources.camera import CameraSource

        return CameraSource(camera)
    from i2i_runtime.sources.images import ImagesSource

    source = ImagesSource(str(images))
    _keep_apart(outputs, source.folders)
    return source


def _run(source: Source, translator: Any, sinks: list[Sink], side_by_side: bool, console: Any) -> None:
    from i2i_runtime.pipeline import Pipeline
    from i2i_runtime.status_line import status_line

    pipeline = Pipeline(source, translator, sinks, side_by_side=side_by_side)
    with command.graceful_stop() as request, status_line(console) as show_line:

        def on_tick(status: Any) -> None:
            if request:
                pipeline.stop()
            show_line(status.line(source.info.frame_count))

        try:
            result = pipeline.run(on_tick)
        except Exception:
            click.echo(pipeline.status().line(source.info.frame_count), err=True)
            for sink in sinks:
                click.echo(f"kept: {sink.summary()}", err=True)
            raise
    _report(result)
    request.raise_if_set(f"stopped; {'; '.join(result.outputs)}")


def _report(result: Result) -> None:
    for line, times in Counter(result.skipped).items():
        click.echo(f"skipped: {line}{f' ({times} times)' if times > 1 else ''}", err=True)
    status = result.status
    click.echo(
        f"{status.captured} frames in, {status.translated} translated, {status.dropped} dropped, {status.failed} failed"
        f" in {status.elapsed:.1f} s ({status.fps:.1f} fps, translate p50 {status.translate_ms[0]:.1f} ms "
        f"p99 {status.translate_ms[1]:.1f} ms)"
    )
    if status.not_written:
        click.echo(f"{status.not_written} translated frames were not written: a sink was too slow")
    for output in result.outputs:
        click.echo(output)


def main() -> None:
    """Entry point of the `i2i-run` command."""
    command.run(i2i_run)
