"""Reads the card of a model file without loading the model, whatever library would run it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.manifest import PLAN_SUFFIXES, read_manifest
from i2i_runtime.errors import ModelError


def card_of(path: Path) -> Card | None:
    """The card of a model file, without loading the model; None where there is none to be read."""
    suffix = path.suffix.lower()
    try:
        if suffix in PLAN_SUFFIXES:
            manifest = read_manifest(path)
            return manifest.card if manifest else None
        text = _onnx_card(path) if suffix == ".onnx" else _xml_card(path) if suffix == ".xml" else None
        return Card.from_json(text, where=str(path)) if text else None
    except (OSError, ValueError, ElementTree.ParseError, ModelError):
        return None


def _xml_card(path: Path) -> str | None:
    """The `rt_info` entry that OpenVINO would give: an element of the key's name with a value."""
    root = ElementTree.parse(path).getroot()  # noqa: S314  (expat itself limits what entities may grow to)
    element = root.find(f"rt_info/{METADATA_KEY}")
    return None if element is None else element.get("value")


def _onnx_card(path: Path) -> str | None:
    """The metadata entry of a `ModelProto`: field 14, a message of a key (1) and a value (2)."""
    with path.open("rb") as file:
        for entry in _fields(file, 14):
            if METADATA_KEY.encode() in _fields(io.BytesIO(entry), 1):
                return next(_fields(io.BytesIO(entry), 2), b"").decode()
    return None


def _fields(file: BinaryIO, wanted: int) -> Iterator[bytes]:
    """What the fields of one number hold in a protobuf message; all others, such as the weights, are stepped over.

    Raises:
        ValueError: no protobuf message.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < size:
        number, kind = divmod(_varint(file), 8)
        if kind == 0:
            _varint(file)
            continue
        length = _varint(file) if kind == 2 else {1: 8, 5: 4}.get(kind, size)
        if length > size - file.tell():
            raise ValueError("a field that goes beyond the end")
        if number == wanted and kind == 2:
            yield file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    value = 0
    for position in range(10):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    raise ValueError("a number without an end")
