"""What a person may do to a running pipeline, from keys in a window and buttons on a page alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from i2i_runtime.errors import UsageError

_STEP = 0.05
"""How far one key press moves the edge of a wipe or the weight of a blend."""


class View(str, Enum):
    """What is shown, and recorded, of a frame and its translation."""

    RESULT = "result"
    SIDE_BY_SIDE = "side-by-side"
    WIPE = "wipe"
    """The input left of an edge, the result right of it."""
    BLEND = "blend"
    """Both, mixed."""
    INPUT = "input"


KEYS = {
    "v": ("view", "next"),
    "[": ("position", "less"),
    "]": ("position", "more"),
    "m": ("mirror", None),
    "f": ("freeze", None),
    "r": ("record", None),
    "s": ("snapshot", None),
    "e": ("next-engine", None),
    "n": ("style", "next"),
    "q": ("quit", None),
}
"""Key to action and value."""
KEY_HELP = (
    "v view  [ ] wipe or blend  m mirror  f freeze  r record  s snapshot  e next engine  n next style  q or Esc quit"
)


@dataclass(frozen=True, kw_only=True)
class ControlState:
    """How the controls stand."""

    view: View = View.RESULT
    position: float = 0.5
    """Where the edge of a wipe lies, from 0 (left) to 1; the share of the input in a blend."""
    mirror: bool = False
    """Turn frames left to right before they are translated, as a mirror shows them."""
    frozen: bool = False
    recording: str | None = None
    """The file that is being recorded; None while nothing is."""
    engine: str = ""
    """The model that runs."""
    engines: tuple[str, ...] = ()
    """Those that `next-engine` goes through."""
    style: int | None = None
    """Of a model with styles, the one chosen."""
    styles: int = 0
    """How many styles the model has."""
    message: str = ""
    """What the last action did, or why it could not."""


class Controls:
    """The controls of one run; every method may be called from any thread.

    >>> controls = Controls()
    >>> controls.do("view", "wipe")
    >>> controls.state().view.value
    'wipe'
    """

    def __init__(self, state: ControlState | None = None) -> None:
        self._lock = threading.Lock()
        self._state = state or ControlState()
        self._actions: dict[str, Callable[[str | None], None]] = {
            "view": self._view,
            "position": self._position,
            "mirror": lambda value: self.update(mirror=not self.state().mirror),
            "freeze": lambda value: self.update(frozen=not self.state().frozen),
        }

    def state(self) -> ControlState:
        """How they stand now."""
        return self._state

    def update(self, **changes: object) -> None:
        """Set fields of the state."""
        with self._lock:
            self._state = replace(self._state, **changes)  # type: ignore[arg-type]

    def on(self, action: str, carry_out: Callable[[str | None], None]) -> None:
        """Say who carries out an action; it is called on the thread of the person's key or button."""
        self._actions[action] = carry_out

    @property
    def actions(self) -> tuple[str, ...]:
        """What can be done in this run."""
        return tuple(self._actions)

    def do(self, action: str, value: str | None = None) -> None:
        """Carry out an action.

        Args:
            action: one of `actions`.
            value: `view` takes a view or `next`, `position` a number from 0 to 1, `less` or `more`, `style` a number or
                `next`; the others take none.

        Raises:
            UsageError: no such action, or a value that makes no sense.
        """
        if action not in self._actions:
            raise UsageError(f"{action!r}: expected one of {', '.join(self._actions)}")
        self._actions[action](value)

    def press(self, key: str) -> None:
        """Carry out what a key stands for; other keys do nothing, and nor do keys of what this run has not."""
        action, value = KEYS.get(key, ("", None))
        if action in self._actions:
            self.do(action, value)

    def _view(self, value: str | None) -> None:
        views = list(View)
        if value in (None, "next"):
            view = views[(views.index(self.state().view) + 1) % len(views)]
        else:
            try:
                view = View(value)
            except ValueError:
                names = ", ".join(view.value for view in views)
                raise UsageError(f"view: expected one of {names}, found {value!r}") from None
        self.update(view=view, message=f"view: {view.value}")

    def _position(self, value: str | None) -> None:
        steps = {"less": -_STEP, "more": _STEP}
        try:
            position = self.state().position + steps[value] if value in steps else float(value or "")
        except ValueError:
            raise UsageError(f"position: expected a number from 0 to 1, less or more, found {value!r}") from None
        if position != position:
            raise UsageError("position: expected a number from 0 to 1, found nan")
        self.update(position=min(1.0, max(0.0, position)))
