"""From what a user asks of `i2i-run` to sources, a model and sinks."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from i2i_runtime.controls import View
from i2i_runtime.engines.base import Engine
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import UsageError
from i2i_runtime.pipeline import Options
from i2i_runtime.request import AUTO, Request
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.open import open_sink
from i2i_runtime.sources.address import Address, Kind, parse_address
from i2i_runtime.sources.base import Source
from i2i_runtime.sources.live import LiveOptions
from i2i_runtime.sources.open import open_source
from i2i_runtime.switch import Model, ModelSwitch, Runs


def addresses(request: Request) -> list[Address]:
    """The sources that are named.

    Raises:
        UsageError: an environment variable that is empty.
        SourceError: an address that is none.
    """
    if request.source or request.source_env:
        texts = request.source or [_from_environment(str(request.source_env))]
        return [parse_address(text) for text in texts]
    named = {
        Kind.CAMERA: request.camera,
        Kind.VIDEO: request.video,
        Kind.IMAGES: request.images,
        Kind.STREAM: request.rtsp or request.url,
        Kind.GSTREAMER: request.gstreamer,
        Kind.SCREEN: request.screen and _keyword("screen", request.screen),
        Kind.TEST_PATTERN: request.test_pattern and _keyword("test-pattern", request.test_pattern),
    }
    return [Address(kind=kind, where=where) for kind, where in named.items() if where]


def options(request: Request, sinks: list[Sink]) -> Options:
    """How the pipeline treats frames; a file is played at its pace where all sinks are watched."""
    return Options(
        every=request.every,
        max_fps=request.max_fps,
        skip_similar=request.skip_similar,
        stabilize=request.stabilize,
        keep_pace=all(sink.is_watched for sink in sinks),
        strict=request.strict,
        keep_going=request.keep_going,
        captures=request.captures,
    )


def open_sinks(request: Request, addresses: list[Address]) -> list[Sink]:
    """The sinks of a run from `addresses`; nothing is written yet.

    Raises:
        SinkError, UsageError: one that cannot be written or shown.
    """
    for output in request.output:
        for address in addresses:
            if address.kind is Kind.VIDEO and "://" not in output:
                _refuse_to_overwrite(Path(address.where), Path(output), len(addresses))
    sinks = [
        open_sink(output, encoder=request.encoder, fixed_size=request.fixed_size, segment_s=request.segment)
        for output in request.output
    ]
    if request.serve is not None:
        from i2i_runtime.sinks.page import PageSink

        host, port = request.serve
        sinks.append(PageSink(host, port, token=request.token, names=request.serve_name))
    if request.show:
        from i2i_runtime.sinks.window import WindowSink

        sinks.append(WindowSink())
    return sinks


def open_sources(request: Request, addresses: list[Address]) -> list[Source]:
    """The sources of a run.

    Raises:
        SourceError: one that cannot be opened.
        UsageError: pictures that the results would overwrite.
    """
    is_given = request.reconnect != "unset"
    live = LiveOptions(
        reconnect=request.reconnect if is_given else None,  # type: ignore[arg-type]
        retry_at_start=is_given and request.reconnect != 0,
        open_timeout_s=request.open_timeout,
    )
    sources: list[Source] = []
    try:
        for address in addresses:
            sources.append(open_source(address, live))
            _keep_apart(request.output, getattr(sources[-1], "folders", set()))
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources


def open_labels(request: Request, model: ModelSwitch) -> Source:
    """The label maps of a run whose model takes them.

    Raises:
        SourceError, UsageError: none, or instance maps that are missing or not wanted.
    """
    from i2i_runtime.sources.label_maps import LabelMapsSource, require_instances

    for_pictures = ("tile", "stabilize", "skip_similar")
    is_plain = all(getattr(request, name) is None for name in for_pictures)
    if request.images is None or request.first_view != View.RESULT or not is_plain:
        raise UsageError(
            f"{model.card.name}: takes label maps; expected --images LABELS and the result alone, without --view, "
            "--side-by-side, --tile, --stabilize and --skip-similar"
        )
    labels = model.card.labels
    require_instances(labels is not None and labels.instance_edges, request.instances, model.card.name)
    source = LabelMapsSource(request.images, request.instances)
    _keep_apart(request.output, source.folders)
    return source


def open_models(request: Request, say: Callable[[str], None]) -> ModelSwitch:
    """The models of a run, the first one loaded and warm.

    Args:
        request: names them.
        say: told what a person should know.

    Raises:
        ModelError, DeviceError: the first one cannot be loaded.
        UsageError: options that do not fit it.
    """
    return ModelSwitch(
        [Model(name=_file(request, name).name, load=partial(_load, request, name, say)) for name in request.engine]
    )


def _file(request: Request, engine: str) -> Path:
    return request.model if engine == AUTO and request.model is not None else Path(engine)


def _load(request: Request, name: str, say: Callable[[str], None]) -> Runs:
    if name == AUTO:
        engine = choose(request, say)
    else:
        engine = open_engine(
            name,
            request.device,
            request.threads,
            trust=request.trust_engine,
            backend=request.backend,
            precision=request.precision,
        )
    try:
        engine.warm_up()
        return _translator(request, engine, say)
    except BaseException:
        engine.close()
        raise


def choose(request: Request, say: Callable[[str], None]) -> Engine:
    """The fastest engine that gives the right answer here."""
    from i2i_runtime.engines.choose import choose_engine

    assert request.model is not None
    say(f"trying how {request.model.name} runs best here; what is found is remembered")
    choice = choose_engine(request.model, request.device, request.threads, trust=request.trust_engine)
    if request.explain:
        say(choice.explain())
    return choice.open()


def _translator(request: Request, engine: Engine, say: Callable[[str], None]) -> Runs:
    card = engine.card
    if card is not None and card.labels is not None:
        from i2i_runtime.label_translator import LabelTranslator

        return LabelTranslator(engine, style=request.style)
    if request.instances is not None or request.style is not None:
        raise UsageError(f"--instances and --style: expected a model of label maps, found {engine.name} for pictures")
    from i2i_runtime.translator import Assumptions, Translator

    assumptions = Assumptions(value_range=request.value_range, colour=request.colour)
    translator: Translator | TiledTranslator
    if request.tile is None:
        translator = Translator(engine, fit=request.fit, assumptions=assumptions)
    else:
        from i2i_runtime.tiling import TiledTranslator

        tile = None if isinstance(request.tile, str) else request.tile
        translator = TiledTranslator(
            engine,
            tile=tile,
            overlap=request.overlap,
            assumptions=assumptions,
            # Pictures of a folder have nothing to do with each other.
            from_previous=request.images is None,
        )
    if translator.assumed:
        say(f"note: {translator.assumed}")
    return translator


def _keyword(word: str, value: str) -> str:
    return word if value == AUTO else f"{word}:{value}"


def _from_environment(variable: str) -> str:
    address = os.environ.get(variable)
    if not address:
        raise UsageError(f"--source-env {variable}: expected an address in that variable, found it empty or unset")
    return address


def _keep_apart(outputs: tuple[str, ...], folders: set[Path]) -> None:
    for output in outputs:
        if "://" not in output and Path(output).resolve() in folders:
            raise UsageError(f"--output {output} holds the input pictures; choose another folder")


def _refuse_to_overwrite(video: Path, output: Path, sources: int) -> None:
    from i2i_runtime.sinks.video import partial_path, video_paths

    written = [path for target in video_paths(output, sources) for path in (target, partial_path(target))]
    # The input may be the partial file that an earlier run left when it was killed.
    if any(path.exists() and video.exists() and path.samefile(video) for path in written):
        raise UsageError(f"--output {output} would overwrite the input {video}; choose another name")


def introduce(model: ModelSwitch, sinks: list[Sink]) -> None:
    """Say which model runs where, and where to look."""
    size = model.card.size
    model_size = f"{size.width}x{size.height}" if size.width else "any size"
    click.echo(f"{model.card.name}: {model_size}, {model.provider}", err=True)
    for announcement in filter(None, (sink.announcement() for sink in sinks)):
        click.echo(announcement, err=True)
