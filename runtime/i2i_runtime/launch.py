"""From what a user asks of `i2i-run` to sources, a model and sinks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import click

from i2i_runtime.controls import Controls, ControlState, View
from i2i_runtime.engines.base import Backend, Device, Engine, Precision
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import UsageError
from i2i_runtime.image import FitMode
from i2i_runtime.pipeline import Options
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.open import open_sink
from i2i_runtime.sources.address import Address, Kind, parse_address
from i2i_runtime.sources.base import Source
from i2i_runtime.sources.live import LiveOptions
from i2i_runtime.sources.open import open_source
from i2i_runtime.switch import Model, ModelSwitch, Runs

AUTO = "auto"
"""The engine that is chosen by measurement; also the tile of a model's own size."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of one run, named as on the command line."""

    engine: tuple[str, ...]
    model: Path | None
    explain: bool
    device: Device
    backend: Backend | None
    precision: Precision | None
    threads: int | None
    trust_engine: bool
    fit: FitMode
    tile: str | tuple[int, int] | None
    overlap: int | None
    style: int | None
    value_range: tuple[float, float] | None
    colour: Literal["RGB", "BGR"] | None

    camera: str | None
    video: str | None
    images: str | None
    instances: str | None
    rtsp: str | None
    url: str | None
    gstreamer: str | None
    screen: str | None
    test_pattern: str | None
    source: tuple[str, ...]
    source_env: str | None
    reconnect: int | Literal["unset"] | None
    open_timeout: float

    output: tuple[str, ...]
    show: bool
    serve: tuple[str, int] | None
    serve_name: tuple[str, ...]
    token: str | None
    encoder: str | None
    fixed_size: bool
    segment: float | None
    captures: Path
    keep_going: bool

    view: str
    side_by_side: bool
    mirror: bool
    every: int
    max_fps: float | None
    skip_similar: float | None
    stabilize: float | None
    strict: bool

    def addresses(self) -> list[Address]:
        """The sources that are named.

        Raises:
            UsageError: none, or two ways of naming them.
            SourceError: an address that is none.
        """
        named = {
            "--camera": self.camera and Address(kind=Kind.CAMERA, where=self.camera),
            "--video": self.video and Address(kind=Kind.VIDEO, where=self.video),
            "--images": self.images and Address(kind=Kind.IMAGES, where=self.images),
            "--rtsp": self.rtsp and Address(kind=Kind.STREAM, where=self.rtsp),
            "--url": self.url and Address(kind=Kind.STREAM, where=self.url),
            "--gstreamer": self.gstreamer and Address(kind=Kind.GSTREAMER, where=self.gstreamer),
            "--screen": self.screen and Address(kind=Kind.SCREEN, where=_keyword("screen", self.screen)),
            "--test-pattern": self.test_pattern
            and Address(kind=Kind.TEST_PATTERN, where=_keyword("test-pattern", self.test_pattern)),
            "--source-env": self.source_env and parse_address(_from_environment(self.source_env)),
        }
        given = {option: address for option, address in named.items() if address}
        if len(given) + bool(self.source) != 1:
            found = ", ".join([*given, *(["--source"] if self.source else [])]) or "none"
            raise UsageError(
                "expected exactly one of --camera N, --video FILE, --images DIR, --rtsp URL, --url URL, --gstreamer "
                f"PIPELINE, --screen, --test-pattern or --source ADDRESS (which may be repeated), found {found}"
            )
        return [parse_address(text) for text in self.source] or list(given.values())

    def check(self) -> None:
        """Refuse what makes no sense before anything is opened.

        Raises:
            UsageError: says which options, and what to do.
        """
        if not self.engine:
            raise UsageError("expected --engine FILE, or --engine auto --model FILE")
        if (AUTO in self.engine) != (self.model is not None):
            raise UsageError("expected --engine auto and --model FILE together")
        if self.explain and self.model is None:
            raise UsageError("--explain: says how --engine auto chooses; give --engine auto --model FILE")
        if self.explain and not self.has_source:
            return
        self.addresses()
        if not self.output and not self.show and self.serve is None:
            raise UsageError("nothing to do with the result: give --output PATH, --show or --serve")
        if len({_place(output) for output in self.output}) < len(self.output):
            raise UsageError("two --output with the same name; choose another for one of them")
        if self.side_by_side and self.view != View.RESULT.value:
            raise UsageError("--side-by-side and --view: give one of them")
        if self.overlap is not None and self.tile is None:
            raise UsageError("--overlap: how far tiles overlap; give --tile too")

    @property
    def has_source(self) -> bool:
        """Whether a source is named at all."""
        names = ("camera", "video", "images", "rtsp", "url", "gstreamer", "screen", "test_pattern", "source_env")
        return bool(self.source) or any(getattr(self, name) is not None for name in names)

    def options(self, sinks: list[Sink]) -> Options:
        """How the pipeline treats frames; a file is played at its pace where a sink is watched."""
        return Options(
            every=self.every,
            max_fps=self.max_fps,
            skip_similar=self.skip_similar,
            stabilize=self.stabilize,
            # Who watches, and a server above all, takes a file no faster than it plays.
            keep_pace=any(sink.is_watched for sink in sinks),
            strict=self.strict,
            keep_going=self.keep_going,
            captures=self.captures,
        )

    def controls(self) -> Controls:
        """The controls as the run begins with them."""
        view = View.SIDE_BY_SIDE if self.side_by_side else View(self.view)
        return Controls(ControlState(view=view, mirror=self.mirror))


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
    if request.images is None or request.controls().state().view != View.RESULT or not is_plain:
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
        [
            Model(
                name=Path(request.model or name if name == AUTO else name).name, load=partial(_load, request, name, say)
            )
            for name in request.engine
        ]
    )


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


def _place(output: str) -> str:
    return output if "://" in output else str(Path(output).resolve())


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
    for sink in sinks:
        # A token that somebody chose is known to them, and this line may end in a log.
        if address := getattr(sink, "url" if getattr(sink, "made_token", False) else "address", None):
            click.echo(f"live page: {address}", err=True)
