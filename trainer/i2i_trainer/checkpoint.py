"""Checkpoints: one file of tensors and JSON, whole at every moment.

A checkpoint is written beside its target, brought to the disk and moved into place, and its SHA-256 stands in
`NAME.pt.sha256`. A kill at any moment leaves the checkpoint before or the one after.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from i2i_runtime.card import Card
from i2i_runtime.digest import file_sha256
from i2i_runtime.errors import ModelError, SinkError, reason, system_reason

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
        _write_sums(sums, path.name, [new_sum, *_allowed_sums(path)])
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
        ModelError: missing, unreadable, cut off, altered, of another kind, or holding something that would have to be
            run.
    """
    try:
        _check_file(path)
        _check_sum(path)
    except OSError as error:
        raise ModelError(
            f"{path}: expected a checkpoint that can be read, found {system_reason(error)}; see who may read it"
        ) from error
    try:
        if _is_torchscript(path):
            raise ModelError(
                f"{path}: a TorchScript program, expected a state dict; in Python: "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'G.pth')"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about what it reads itself
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: {_MORE_THAN_TENSORS}") from error
    except Exception as error:  # zip, pickle and torch each have their own
        # torch advises to load it all the same, with the code in it.
        if "weights_only" in str(error):
            raise ModelError(f"{path}: {_MORE_THAN_TENSORS}") from error
        raise ModelError(f"{path}: not a whole checkpoint ({reason(error)}); use another one of the run") from error


_MORE_THAN_TENSORS = (
    "expected tensors and JSON only, found something else, which is not loaded: it could run code; "
    "save the state_dict() of the generator alone"
)


def _check_file(path: Path) -> None:
    """Raise a ModelError where it cannot be a file of torch.save, with what to do about what it is."""
    if path.is_dir():
        raise ModelError(
            f"{path}: expected a checkpoint, found a folder; name the file in it, such as last.pt or latest_net_G.pth"
        )
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint; expected RUN/last.pt or RUN/best.pt")
    with path.open("rb") as file:
        head = file.read(12)
    # Its header: the length of what follows, and JSON. Such a length can begin like a zip file or a pickle.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        raise ModelError(
            f"{path}: a safetensors file, expected one of torch.save; in Python: "
            f"torch.save(safetensors.torch.load_file({path.name!r}), 'G.pth')"
        )
    # What torch.save writes is a zip file, or a pickle as it was before PyTorch 1.6.
    if not head.startswith((b"PK", b"\x80")):
        found = f"one that begins with {head!r}" if head else "an empty one"
        raise ModelError(
            f"{path}: expected tensors and JSON only in a file of torch.save, found {found}; copy it again"
        )


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:  # a pickle, or cut off
        return False
    return any(re.match(r"[^/]+/(constants\.pkl$|code/)", name) for name in names)


def _check_sum(path: Path) -> None:
    allowed = _allowed_sums(path)
    if allowed and file_sha256(path) not in allowed:
        raise ModelError(
            f"{path}: its SHA-256 is not the one in {_sums_path(path).name}: it was cut off or altered; "
            "copy both again, or use another checkpoint of the run"
        )


def is_checkpoint(payload: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether what `read_tensors` gave claims to be a checkpoint of ours, of this format or another.

    Other people's files can have a `format` too; `card` is what format 1 had for `cards`.
    """
    return (
        isinstance(payload, Mapping)
        and type(payload.get("format")) is int
        and "networks" in payload
        and ("cards" in payload or "card" in payload)
    )


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


def _allowed_sums(path: Path) -> list[str]:
    """What stands in `NAME.pt.sha256` about this file; lines of another form or about another file say nothing."""
    try:
        lines = _sums_path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    form = re.compile(rf"([0-9a-f]{{64}})  {re.escape(path.name)}")
    return [found[1] for line in lines if (found := form.fullmatch(line))]


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
