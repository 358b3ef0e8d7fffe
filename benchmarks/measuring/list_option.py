"""An option that takes several values between commas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


class ListOf(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """Values between commas, each read by `convert`, which raises `click.BadParameter`; each counts once."""

    name = "LIST"

    def __init__(self, convert: Callable[[str], Any]) -> None:
        self._convert = convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """See click."""
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(self._convert(word.strip()) for word in str(value).split(",")))


def count(word: str) -> int:
    """A number from 1 on."""
    if not (word.isdecimal() and int(word) > 0):
        raise click.BadParameter(f"expected numbers from 1 on, such as 1,4; found {word!r}")
    return int(word)
