"""The sidecar of a plan, `zebra.plan.json`: what built it, for which GPU, from what, and the model's card.

A plan is native code and carries no room of its own that `trtexec` would leave alone, so what must be known before it
is loaded stands beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from i2i_runtime.card import Card, decode
from i2i_runtime.errors import ModelError, SinkError, system_reason

MANIFEST_VERSION = 1
PLAN_SUFFIXES = (".plan", ".engine")
Library = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True, kw_only=True)
class ShapeRange:
    """The shapes that one input may have: what TensorRT calls an optimisation profile."""

    name: str
    """The input's name."""
    smallest: tuple[int, ...]
    typical: tuple[int, ...]
    """The shape that the plan is tuned for."""
    largest: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What must be known about a plan before it is loaded."""

    plan_sha256: str
    onnx: str
    """Name of the ONNX file that it was built from (never its whole path)."""
    onnx_sha256: str
    library: Library
    library_version: str
    precision: str
    """As in the card's export record: `fp32`, `fp16`, ..."""
    shapes: tuple[ShapeRange, ...] = ()
    """Empty where all shapes are fixed."""
    gpu: str | None
    """Name of the GPU that it was built on; None where it was built without one."""
    compute_capability: str | None
    """For example `8.7`; None for every one that the library builds for."""
    hardware_compatible: bool
    """Whether it runs on every GPU from Ampere (8.0) on."""
    version_compatible: bool
    """Whether it runs in every later release of the library's major version."""
    platform: str
    """For example `linux-x86_64`."""
    card: Card | None
    build_seconds: float | None = None
    """How long the build took where the plan was made."""
    version: int = MANIFEST_VERSION

    def to_json(self) -> str:
        """The manifest as JSON text; `from_json` gives an equal manifest back."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str = "manifest") -> Manifest:
        """Read a manifest, telling `where` it was found when something is wrong with it.

        Raises:
            ModelError: no JSON, another version, a missing or unknown field, a wrong type, a broken card, a path or
                control characters where a name belongs.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{where}: not JSON ({error}); build the plan again") from None
        if not isinstance(data, dict):
            raise ModelError(f"{where}: expected a JSON object, found {type(data).__name__}; build the plan again")
        if data.get("version") != MANIFEST_VERSION:
            raise ModelError(
                f"{where}: version {data.get('version')!r} is unknown, this i2i reads version {MANIFEST_VERSION}; "
                "build the plan again"
            )
        if data.get("card") is not None:
            Card.from_json(json.dumps(data["card"]), where=f"{where}.card")
        manifest = decode(cls, data, where)
        # Messages show it as a part of a command to run.
        if not is_file_name(manifest.onnx):
            raise ModelError(
                f"{where}.onnx: expected a file name without a folder and control characters, "
                f"found {manifest.onnx[:80]!a}; build the plan again"
            )
        return manifest


def is_file_name(text: str) -> bool:
    r"""Whether `text` is the bare name of a file, on every system, that may be shown in a terminal.

    >>> is_file_name("zebra 2.onnx"), is_file_name("../zebra.onnx"), is_file_name("a\nb")
    (True, False, False)
    """
    # Control characters, lone surrogates (what Python makes of bytes that are no text), line separators.
    unfit = any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)
    return not (unfit or text in ("", ".", "..") or any(separator in text for separator in "/\\"))


def rebuild_command(onnx: str, plan: str) -> str:
    """The command that builds a plan of an ONNX file, to be pasted into a shell.

    >>> rebuild_command("my zebra.onnx", "-z.plan")
    "i2i-export 'my zebra.onnx' -o ./-z.plan"
    """
    # A name that begins with a dash would be taken for an option.
    source, target = (shlex.quote(f"./{name}" if name.startswith("-") else name) for name in (onnx, plan))
    return f"i2i-export {source} -o {target}"


def manifest_path(plan: Path) -> Path:
    """Where the sidecar of `plan` stands: `zebra.plan.json` beside `zebra.plan`."""
    return plan.with_name(f"{plan.name}.json")


def read_manifest(plan: Path) -> Manifest | None:
    """The sidecar of `plan`; None where there is none.

    Raises:
        ModelError: the sidecar cannot be read or makes no sense.
    """
    path = manifest_path(plan)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({system_reason(error)}); build the plan again") from error
    return Manifest.from_json(text, where=str(path))


def write_manifest(plan: Path, manifest: Manifest) -> None:
    """Write the sidecar of `plan` beside its place and move it there: a reader sees the old one or the new one.

    Raises:
        SinkError: it cannot be written.
    """
    path = manifest_path(plan)
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(manifest.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise SinkError(f"{path}: cannot write the plan's sidecar ({system_reason(error)})") from error


def load_plan(plan: Path, trust: bool = False) -> tuple[bytes, Manifest | None]:
    """The bytes of a plan, checked: what is returned is what was hashed, whatever happens to the file meanwhile.

    Args:
        plan: the plan file.
        trust: whether to accept a plan without a sidecar. One that differs from its sidecar is never accepted.

    Raises:
        ModelError: it cannot be read, differs from its sidecar, or has none and is not trusted.
    """
    manifest = read_manifest(plan)
    while True:
        try:
            content = plan.read_bytes()
        except OSError as error:
            raise ModelError(f"{plan}: cannot be read ({system_reason(error)})") from error
        if manifest is None:
            break
        if hashlib.sha256(content).hexdigest() == manifest.plan_sha256:
            return content, manifest
        # A build may have moved a new pair into place between our two reads: judge the plan by the newest sidecar.
        newest = read_manifest(plan)
        if newest == manifest:
            raise ModelError(
                f"{plan}: its SHA-256 is not the one in {manifest_path(plan).name}: it was cut off or altered; "
                f"rebuild it: {rebuild_command(manifest.onnx, plan.name)}"
            )
        manifest = newest
    if not trust:
        raise ModelError(
            f"{plan}: a plan is native code, and there is no {manifest_path(plan).name} that says where it comes from; "
            "build it from its ONNX file with i2i-export, or run it all the same with --trust-engine"
        )
    return content, None


def check_plan(plan: Path, trust: bool = False) -> Manifest | None:
    """The sidecar of a plan that may be loaded; None for a trusted plan without one. See `load_plan`."""
    return load_plan(plan, trust)[1]
