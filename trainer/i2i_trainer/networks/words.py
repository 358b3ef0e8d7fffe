"""A generator in words, as options name it: `student_6blocks,width=32`."""

from __future__ import annotations

import re

from i2i_runtime.card import Architecture, decode
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.networks.build import argument_kinds

Value = int | float | str | bool


def parse_words(text: str, flag: str) -> dict[str, Value]:
    """Read the name of a generator, arguments of it, or both.

    >>> parse_words("resnet_9blocks,norm=batch,dropout=0.5", "--arch")
    {'name': 'resnet_9blocks', 'norm': 'batch', 'dropout': 0.5}

    Args:
        text: the words.
        flag: the option that they are from, for messages.

    Returns:
        Argument to value, and the name as `name`.

    Raises:
        UsageError: not of that form.
    """
    words: dict[str, Value] = {}
    for number, part in enumerate(text.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and number == 0:
            key, value = "name", key
        if not key.isidentifier() or not value or key in words or (key == "name" and number):
            raise UsageError(
                f"{flag} {text}: expected a generator, settings or both, for example resnet_9blocks, norm=batch or "
                f"resnet_9blocks,norm=batch,dropout=0.5; found {part.strip()!r}"
            )
        words[key] = _value(value)
    return words


def architecture_of(
    text: str, flag: str, *, input_channels: int, output_channels: int, **settings: Value
) -> Architecture:
    """The generator that words name, for given channels.

    Args:
        text: see `parse_words`.
        flag: the option that it is from, for messages.
        input_channels: of the generator.
        output_channels: of the generator.
        settings: arguments that the words leave out, where this generator has them.

    Raises:
        UsageError: no such generator, or not with these arguments.
    """
    words = parse_words(text, flag)
    name = str(words.pop("name", ""))
    try:
        kinds = argument_kinds(name)
    except UsageError as error:
        raise UsageError(f"{flag} {text}: {error}") from None
    channels = {"input_channels": input_channels, "output_channels": output_channels}
    for key in words:
        if key not in kinds.keys() - channels.keys():
            raise UsageError(
                f"{flag} {text}: {key}: expected one of {', '.join(k for k in kinds if k not in channels)}"
            )
        if kinds[key] is str:
            words[key] = str(words[key])  # "8", where a word can be a number
        try:
            decode(kinds[key], words[key], f"{flag} {text}: {key}")
        except ModelError as error:
            raise UsageError(str(error)) from None
    usual = {key: value for key, value in settings.items() if key in kinds}
    return Architecture(name=name, arguments={**channels, **usual, **words})


def _value(text: str) -> Value:
    # Not int(): it takes 16_32 for 1632.
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d*\.\d+", text):
        return float(text)
    return {"true": True, "false": False}.get(text.lower(), text)
