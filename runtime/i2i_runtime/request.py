"""The options of `i2i-run`, and which of them make no sense together; nothing heavy is loaded to say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from i2i_runtime.controls import Controls, ControlState, View
from i2i_runtime.errors import UsageError

if TYPE_CHECKING:
    from i2i_runtime.engines.base import Backend, Device, Precision
    from i2i_runtime.image import FitMode

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
        if self.explain and not self.sources:
            return
        if len(self.sources) != 1:
            raise UsageError(
                "expected exactly one of --camera N, --video FILE, --images DIR, --rtsp URL, --url URL, --gstreamer "
                "PIPELINE, --screen, --test-pattern or --source ADDRESS (which may be repeated), found "
                f"{', '.join(self.sources) or 'none'}"
            )
        if not self.output and not self.show and self.serve is None:
            raise UsageError("nothing to do with the result: give --output PATH, --show or --serve")
        if len({_place(output) for output in self.output}) < len(self.output):
            raise UsageError("two --output with the same name; choose another for one of them")
        if self.side_by_side and self.view != View.RESULT.value:
            raise UsageError("--side-by-side and --view: give one of them")
        if self.overlap is not None and self.tile is None:
            raise UsageError("--overlap: how far tiles overlap; give --tile too")

    @property
    def sources(self) -> list[str]:
        """The options that name a source."""
        names = (
            "camera",
            "video",
            "images",
            "rtsp",
            "url",
            "gstreamer",
            "screen",
            "test_pattern",
            "source",
            "source_env",
        )
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]

    def controls(self) -> Controls:
        """The controls as the run begins with them."""
        return Controls(ControlState(view=self.first_view, mirror=self.mirror))

    @property
    def first_view(self) -> View:
        """The view that the run begins with."""
        return View.SIDE_BY_SIDE if self.side_by_side else View(self.view)


def _place(output: str) -> str:
    return output if "://" in output else str(Path(output).resolve())
