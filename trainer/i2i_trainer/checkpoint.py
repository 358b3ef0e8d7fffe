"""Checkpoints: one file of tensors and JSON, whole at every moment.

A checkpoint is written beside its target, brought to the disk and moved into place, and its SHA-256 stands in
`NAME.pt.sha256`. A kill at any moment leaves the checkpoint before or the one after.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from i2i_runtime.card import Card
from i2i_runtime.digest import file_sha256
from i2i_runtime.errors import ModelError, SinkError, reason

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a training saves."""

    cards: dict[str, Card]
    """Network name to card, of each generator that translates: first that of the run's direction."""
    config: str
    """JSON of the settings: `{"model_type": ..., "run": {...}, "model": {...}}`."""
    networks: dict[str, dict[str, Tensor]]
    """Network name to state dict, on the CPU when loaded; generators with the weights to use (see `--ema`)."""
    examples: dict[str, list[dict[str, Tensor]]]
    """Network name to inputs on which the exporter proves its work: `input` (c, h, w) float16 in [-1, 1]; of label
    maps int32 ids, and `instances` where there are any."""
    training_state: dict[str, Any] | None
    """Optimisers, random generators and counters; None in a checkpoint that is only for use."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, atomically.

    Raises:
        SinkError: the disk refuses; what was at `path` is still there.
    """
    beside = path.with_name(f".{path.name}.partial")
    sums = _sums_path(path)
    payload = {
        "format": FORMAT,
        "cards": {name: card.to_json() for name, card in checkpoint.cards.items()},
        "config": checkpoint.config,
        "networks": checkpoint.networks,
        "examples": checkpoint.examples,
        "training_state": checkpoint.training_state,
    }
    try:
        with beside.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        new_sum = file_sha256(beside)
        # Both sums are allowed while the file changes: at every moment the file on disk has a sum that is listed.
        _write_sums(sums, path.name, [new_sum, *_allowed_sums(sums)])
        beside.replace(path)
        _write_sums(sums, path.name, [new_sum])
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        beside.unlink(missing_ok=True)
        raise SinkError(
            f"{path}: the checkpoint cannot be written ({reason(error)}); the one before is kept"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint: tensors and JSON only, never code.

    Raises:
        ModelError: missing, cut off, altered, or not a checkpoint of ours.
    """
    return as_checkpoint(read_tensors(path), path)


def read_tensors(path: Path) -> object:
    """What a file of torch.save holds, ours or someone else's: tensors and plain values only, never code.

    Raises:
        ModelError: missing, cut off, altered, or holding something that would have to be run.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint; expected RUN/last.pt or RUN/best.pt")
    allowed = _allowed_sums(_sums_path(path))
    if allowed and file_sha256(path) not in allowed:
        raise ModelError(
            f"{path}: its SHA-256 is not the one in {_sums_path(path).name}: it was cut off or altered; "
            "copy it again, or use another checkpoint of the run"
        )
    try:
        with path.open("rb") as file:
            head = file.read(12)
        # What torch.save writes is a zip file, or a pickle as it was before PyTorch 1.6.
        if not head.startswith((b"PK", b"\x80")):
            found = f"one that begins with {head!r}" if head else "an empty one"
            raise ModelError(
                f"{path}: expected tensors and JSON only in a file of torch.save, found {found}; copy it again"
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: expected tensors and JSON only, found something else, which is not loaded: it could run code; "
            "save the state_dict() of the generator alone"
        ) from error
    except Exception as error:  # zip, pickle and torch each have their own
        raise ModelError(f"{path}: not a whole checkpoint ({reason(error)}); use another one of the run") from error


def is_checkpoint(payload: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether what `read_tensors` gave claims to be a checkpoint of ours."""
    return isinstance(payload, Mapping) and "format" in payload


def as_checkpoint(payload: object, path: Path) -> Checkpoint:
    """Check what `read_tensors` gave of a file.

    Raises:
        ModelError: not a checkpoint of ours.
    """
    if not is_checkpoint(payload):
        raise ModelError(f"{path}: expected a checkpoint of i2i-train, found other contents")
    if payload["format"] != FORMAT:
        raise ModelError(f"{path}: checkpoint format {payload['format']} is unknown, this i2i reads {FORMAT}")
    kinds = {"cards": dict, "config": str, "networks": dict, "examples": dict, "training_state": dict | None}
    if not kinds.keys() <= payload.keys():
        raise ModelError(f"{path}: expected {', '.join(kinds)}, found {', '.join(map(str, payload))}")
    for key, kind in kinds.items():
        if not isinstance(payload[key], kind):
            raise ModelError(f"{path}: {key}: expected {kind}, found {type(payload[key]).__name__}")
    for name, card in payload["cards"].items():
        if not isinstance(card, str):
            raise ModelError(f"{path}: cards.{name}: expected JSON text, found {type(card).__name__}")
    return Checkpoint(
        cards={name: Card.from_json(card, where=f"{path}: {name}") for name, card in payload["cards"].items()},
        **{key: payload[key] for key in kinds if key != "cards"},
    )


def load_weights(network: torch.nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        ModelError: names what is missing, unknown or of another shape.
    """
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"{where}: the weights do not fit the network ({' '.join(str(error).split())[:300]})"
        ) from None


def _sums_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _allowed_sums(sums: Path) -> list[str]:
    try:
        return [line.split()[0] for line in sums.read_text().splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


def _write_sums(sums: Path, name: str, digests: list[str]) -> None:
    """In the format of `sha256sum --check`."""
    beside = sums.with_name(f".{sums.name}.partial")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(f"{digest}  {name}\n" for digest in dict.fromkeys(digests))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(sums)


def _sync_folder(folder: Path) -> None:
    """Bring the renames to the disk too, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
