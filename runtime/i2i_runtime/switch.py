"""Several models of which one runs, and the change from one to the next without a pause."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from i2i_runtime.card import Card
from i2i_runtime.closing import Closing
from i2i_runtime.controls import Controls
from i2i_runtime.errors import I2IError, OutOfMemoryError, UsageError, reason
from i2i_runtime.frame import Image


class Runs(Protocol):
    """What can be switched to: `Translator`, `LabelTranslator`, `TiledTranslator`."""

    card: Card
    provider: str

    def __call__(self, image: Any, /) -> Image:
        """Translate one image."""

    def close(self) -> None:
        """Free the engine."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that can be loaded."""

    name: str
    load: Callable[[], Runs]
    """Loads it and warms it up; raises ModelError or DeviceError."""


class ModelSwitch(Closing):
    """A translator that is one of several.

    The next one is loaded beside the one that runs, and takes over between two frames. A model that runs out of memory
    is loaded anew once. Called by one thread, told to switch by any other.

    Attributes:
        generation: another number whenever the results change: another model, another style.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        """Load the first of `models`.

        Raises:
            ModelError, DeviceError: it cannot be loaded.
        """
        self._models = list(models)
        self._current = 0
        self._running = self._models[0].load()
        self._lock = threading.Lock()
        self._loaded: tuple[int, Runs] | None = None
        self._loader: threading.Thread | None = None
        self._controls: Controls | None = None
        self._is_closed = False
        self._takes_batches = True
        self.generation = 0

    def bind(self, controls: Controls) -> None:
        """Carry out `next-engine` and `style`, and publish which model runs."""
        self._controls = controls
        controls.update(engines=tuple(model.name for model in self._models))
        if len(self._models) > 1:
            controls.on("next-engine", lambda value: self.next())
        if self._styles > 1:
            controls.on("style", self._choose_style)
        self._publish()

    @property
    def card(self) -> Card:
        """What the running model expects and returns."""
        return self._running.card

    @property
    def provider(self) -> str:
        """What really runs it."""
        return self._running.provider

    @property
    def max_batch(self) -> int:
        """How many frames it takes at once."""
        return int(getattr(self._running, "max_batch", 1)) if self._takes_batches else 1

    def next(self) -> None:
        """Load the next model in the background; it takes over with the first frame after that."""
        with self._lock:
            if self._loader is not None and self._loader.is_alive():
                return
            # Not a second one beside one that still waits for a frame: it could not be freed.
            if self._loaded is not None:
                return
            number = (self._current + 1) % len(self._models)
            self._loader = threading.Thread(target=self._load, args=(number,), daemon=True)
            self._loader.start()

    def __call__(self, image: Image) -> Image:
        """Translate one image: see `Translator`."""
        self._take_over()
        try:
            return self._running(image)
        except OutOfMemoryError:
            self._load_anew()
            return self._running(image)

    def batch(self, images: Sequence[Image]) -> list[Image]:
        """Translate several images at once: see `Translator.batch`."""
        self._take_over()
        try:
            return self._running.batch(images)  # type: ignore[attr-defined, no-any-return]
        except OutOfMemoryError:
            self._load_anew()
            self._takes_batches = False
            self._tell("out of memory for several pictures at once: one by one from now on")
            return [self._running(image) for image in images]

    def close(self) -> None:
        """Free what is loaded; a model that is still being loaded is freed when it is."""
        with self._lock:
            self._is_closed = True
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded[1].close()
        self._running.close()

    def _load(self, number: int) -> None:
        model = self._models[number]
        self._tell(f"loading {model.name}")
        try:
            loaded = model.load()
        except Exception as error:
            # Of whatever kind: the model that runs is not to end for it.
            self._tell(str(error) if isinstance(error, I2IError) else f"{model.name}: {reason(error)}")
            return
        if (loaded.card.labels is None) != (self._running.card.labels is None):
            loaded.close()
            self._tell(
                f"{model.name}: takes {'pictures' if loaded.card.labels is None else 'label maps'}; not switched"
            )
            return
        with self._lock:
            if not self._is_closed:
                self._loaded = number, loaded
                self.generation += 1
                return
        loaded.close()

    def _take_over(self) -> None:
        if self._loaded is None:
            return
        with self._lock:
            (self._current, loaded), self._loaded = self._loaded, None
        before, self._running = self._running, loaded
        self._takes_batches = True
        before.close()
        self._publish()
        self._tell(f"now {self._models[self._current].name}")

    def _load_anew(self) -> None:
        # An engine that ran out of memory keeps what it had taken: only a new one starts from nothing.
        self._running.close()
        self._running = self._models[self._current].load()

    @property
    def _styles(self) -> int:
        return int(getattr(self._running, "styles", 0))

    def _choose_style(self, value: str | None) -> None:
        if not self._styles:
            raise UsageError(f"style: {self._models[self._current].name} has one style only")
        chosen: int = getattr(self._running, "style", 0)
        if value in (None, "next"):
            style = (chosen + 1) % self._styles
        elif value is not None and value.isdecimal() and int(value) < self._styles:
            style = int(value)
        else:
            raise UsageError(f"style: expected a number from 0 to {self._styles - 1} or next, found {value!r}")
        self._running.style = style  # type: ignore[attr-defined]
        self.generation += 1
        self._publish()

    def _publish(self) -> None:
        if self._controls is not None:
            style = getattr(self._running, "style", None) if self._styles > 1 else None
            self._controls.update(engine=self._models[self._current].name, style=style, styles=self._styles)

    def _tell(self, message: str) -> None:
        if self._controls is not None:
            self._controls.update(message=message)
