"""The house has floors: export stands on trainer, trainer on runtime, and nothing reaches up or to a sibling.

Every import counts, inside functions and under `if TYPE_CHECKING` too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from commands import REPOSITORY

RUNTIME_LIBRARIES = {"click", "numpy", "cv2", "av", "rich"}
OPTIONAL_LIBRARIES = {
    "i2i_runtime.engines.onnxruntime": {"onnxruntime"},
    "i2i_runtime.engines.openvino": {"openvino"},
    "i2i_runtime.engines.nvinfer": {"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "cuda"},
    "i2i_runtime.doctor": {"onnxruntime", "openvino"},
    "i2i_runtime.sources.screen": {"mss"},
    "i2i_runtime.sinks.virtual_camera": {"pyvirtualcam"},
    "i2i_runtime.sinks.page.server": {"aiohttp"},
    "i2i_runtime.sinks.page.webrtc": {"aiortc"},
}
"""The library of an engine or extra, in its own file only; `nvinfer` is the door of all files that need TensorRT."""
RUNTIME_FLOORS = (
    {"redaction", "closing", "digest", "isolated"},
    {"errors"},
    {"card", "frame", "channel", "controls", "command", "status_line", "relay"},
    {"image", "similar", "stabilize", "norm_statistics", "h264"},
    {"view", "selection", "letterbox"},
    {"engines", "sources"},
    {"stats"},
    {"sinks"},
    {"translator", "label_translator"},
    {"tiling", "switch", "translation", "captures", "outlets"},
    {"watch"},
    {"pipeline"},
    {"request"},
    {"launch", "doctor"},
    {"cli"},
    {"__main__"},
)
"""The rooms of the runtime from the ground up; a new room needs its floor."""
ALSO_OPEN_TO = {"i2i_trainer.eval_cli": {"engines"}}
"""`i2i-eval` measures exported engines too: the one module of the trainer that may run them."""
FAMILIES = ("i2i_runtime.engines", "i2i_runtime.sources", "i2i_runtime.sinks", "i2i_trainer.models")
TOPS = {"open", "build", "choose", "__init__"}
"""The members of a family that stand on all the others."""
FOUNDATIONS = {
    "i2i_runtime.engines": {"base", "cards", "manifest", "nvinfer"},
    "i2i_runtime.sources": {"base", "capture", "decoding", "pacing"},
}
"""What the members of a family may know of it, where that is more than its base."""
OPEN_TO = {
    "i2i_trainer": {
        "i2i_runtime": {
            "__version__", "card", "errors", "image", "command", "frame", "closing", "status_line", "digest",
        },
        "i2i_export": set(),
        "onnx": set(),
        "onnxruntime": set(),
    },
    "i2i_export": {
        "i2i_runtime": {
            "__version__", "card", "errors", "image", "command", "frame", "closing", "status_line", "digest", "engines",
            "translator", "sources", "norm_statistics",
        },
        "i2i_trainer": {"networks", "trained", "checkpoint", "foreign", "config", "budget"},
    },
}  # fmt: skip
"""Which rooms of a package another one may enter; what is not listed is open."""


@dataclass(frozen=True)
class Import:
    name: str
    """Dotted, with the imported name: `from a.b import c` is `a.b.c`."""
    line: int
    is_for_types: bool
    """Whether it stands under `if TYPE_CHECKING`."""

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]

    @property
    def room(self) -> str:
        """`card` of `i2i_runtime.card.Card`."""
        return [*self.name.split("."), ""][1]


def imports_of(path: Path, module: str) -> Iterator[Import]:
    def visit(node: ast.AST, is_for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, is_for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", node.lineno, is_for_types) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            constants = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield from (Import(str(name), node.lineno, is_for_types) for name in constants)
        if isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            yield from (found for child in node.body for found in visit(child, True))
            yield from (found for child in node.orelse for found in visit(child, is_for_types))
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, is_for_types)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def modules_under(repository: Path) -> dict[str, Path]:
    """Dotted name to file; a package's `__init__.py` is called `package.__init__`."""
    return {
        ".".join(path.relative_to(repository / part).with_suffix("").parts): path
        for part in ("runtime", "trainer", "export")
        for path in sorted((repository / part).rglob("*.py"))
    }


def violations(repository: Path) -> list[str]:
    """One line for each import that the layers forbid, and one for each circle."""
    modules = modules_under(repository)
    found = []
    for module, path in modules.items():
        where = path.relative_to(repository).as_posix()
        for imported in imports_of(path, module):
            reason = (
                _foreign_library(module, imported)
                or _closed_room(module, imported)
                or _sibling(module, imported)
                or _upward(module, imported)
            )
            if reason:
                found.append(f"{where}:{imported.line}: {imported.name}: {reason}")
    return found + _circles(modules)


def _foreign_library(module: str, imported: Import) -> str | None:
    if not module.startswith("i2i_runtime"):
        return None
    if imported.root in sys.stdlib_module_names | RUNTIME_LIBRARIES | {"i2i_runtime"}:
        return None
    if imported.root in OPTIONAL_LIBRARIES.get(module, set()):
        return None
    if imported.root == "typing_extensions" and imported.is_for_types:
        return None
    return "not a library of the runtime"


def _closed_room(module: str, imported: Import) -> str | None:
    allowed = OPEN_TO.get(module.partition(".")[0], {}).get(imported.root)
    if allowed is None or imported.room in allowed | ALSO_OPEN_TO.get(module, set()):
        return None
    return "a room that is closed to this package"


def _sibling(module: str, imported: Import) -> str | None:
    family, _, member = module.rpartition(".")
    if family not in FAMILIES or member in TOPS or not imported.name.startswith(f"{family}."):
        return None
    neighbour = imported.name.removeprefix(f"{family}.").partition(".")[0]
    if neighbour in FOUNDATIONS.get(family, {"base"}) | {member}:
        return None
    return "a sibling; members of a family know their base only"


def _upward(module: str, imported: Import) -> str | None:
    package, room = module.split(".")[:2]
    if imported.room == "cli" and imported.root == package and room != "__main__":
        return "the command stands on top of everything"
    if package != "i2i_runtime" or room == "__init__" or imported.root != package or imported.room == room:
        return None
    floors = {name: level for level, names in enumerate(RUNTIME_FLOORS) for name in names}
    if room not in floors:
        return f"{room} has no floor in RUNTIME_FLOORS"
    # `__version__` and the like lie on the ground.
    return "not below" if floors.get(imported.room, -1) >= floors[room] else None


def _circles(modules: dict[str, Path]) -> list[str]:
    def home(name: str) -> str | None:
        """The module that an imported name lives in."""
        parent = name.rpartition(".")[0]
        return next((m for m in (name, f"{name}.__init__", parent, f"{parent}.__init__") if m in modules), None)

    # The package's own __init__ hands out names of the whole house.
    inner = {module: path for module, path in modules.items() if module.count(".") != 1 or "__init__" not in module}
    graph = {
        module: {target for i in imports_of(path, module) if (target := home(i.name)) in inner and target != module}
        for module, path in inner.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"a circle: {' -> '.join(error.args[1])}"]
    return []


def test_the_layers_hold():
    assert violations(REPOSITORY) == []


def test_the_check_sees_the_packages_and_their_imports():
    modules = modules_under(REPOSITORY)

    assert {name.partition(".")[0] for name in modules} == {"i2i_runtime", "i2i_trainer", "i2i_export"}
    names = {i.name for i in imports_of(modules["i2i_runtime.sources.open"], "i2i_runtime.sources.open")}
    assert {"i2i_runtime.sources.base.Source", "i2i_runtime.sources.video.VideoSource", "pathlib.Path"} <= names


@pytest.mark.parametrize(
    ("module", "source", "violation"),
    [
        ("i2i_runtime.card", "import torch", "1: torch: not a library"),
        ("i2i_runtime.card", "def f():\n    import torch.nn as nn", "2: torch.nn: not a library"),
        ("i2i_runtime.card", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx", "3: onnx: not a"),
        ("i2i_runtime.card", "import importlib\nimportlib.import_module('torch')", "2: torch: not a library"),
        ("i2i_runtime.card", "from typing_extensions import Self", "typing_extensions.Self: not a library"),
        ("i2i_runtime.engines.open", "import onnxruntime", "onnxruntime: not a library"),
        ("i2i_runtime.engines.tensorrt", "def f():\n    import tensorrt", "2: tensorrt: not a library"),
        ("i2i_runtime.engines.build", "from cuda.bindings import runtime", "cuda.bindings.runtime: not a library"),
        ("i2i_runtime.engines.tensorrt", "from i2i_runtime.engines.build import build_plan", "build_plan: a sibling"),
        ("i2i_runtime.engines.nvinfer", "from i2i_runtime.engines.tensorrt import TensorRtEngine", "Engine: a sibling"),
        ("i2i_runtime.pipeline", "from i2i_trainer.loop import train", "i2i_trainer.loop.train: not a library"),
        ("i2i_runtime.pipeline", "from i2i_export import load", "i2i_export.load: not a library"),
        ("i2i_runtime.card", "from i2i_runtime.image import resize", "i2i_runtime.image.resize: not below"),
        ("i2i_runtime.card", "from .image import resize", "i2i_runtime.image.resize: not below"),
        ("i2i_runtime.card", "from . import image", "i2i_runtime.image: not below"),
        ("i2i_runtime.sinks.video", "from i2i_runtime import pipeline", "i2i_runtime.pipeline: not below"),
        ("i2i_runtime.translator", "import i2i_runtime.cli", "i2i_runtime.cli: the command stands on top"),
        ("i2i_runtime.helpers", "from i2i_runtime.card import Card", "helpers has no floor"),
        ("i2i_runtime.sinks.video", "from i2i_runtime.sinks.window import WindowSink", "WindowSink: a sibling"),
        ("i2i_runtime.sinks.base", "from i2i_runtime.sinks.video import VideoSink", "VideoSink: a sibling"),
        ("i2i_runtime.sinks.video", "def f():\n    from . import images", "2: i2i_runtime.sinks.images: a sibling"),
        ("i2i_trainer.models.cyclegan", "from i2i_trainer.models.pix2pix import Pix2Pix", "Pix2Pix: a sibling"),
        ("i2i_trainer.loop", "from i2i_runtime.engines.open import open_engine", "open_engine: a room that is closed"),
        ("i2i_trainer.loop", "from i2i_runtime import Translator", "i2i_runtime.Translator: a room that is closed"),
        ("i2i_trainer.loop", "from i2i_export.graph import build_graph", "build_graph: a room that is closed"),
        ("i2i_trainer.loop", "import onnx", "onnx: a room that is closed"),
        ("i2i_trainer.loop", "from i2i_trainer.cli import main", "i2i_trainer.cli.main: the command stands on top"),
        ("i2i_export.parity", "from i2i_trainer.loop import train", "i2i_trainer.loop.train: a room that is closed"),
        ("i2i_export.parity", "from i2i_trainer.data.paired import find_pairs", "find_pairs: a room that is closed"),
        ("i2i_export.parity", "from i2i_runtime.sinks.video import VideoSink", "VideoSink: a room that is closed"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path, module, source, violation):
    part = {"i2i_runtime": "runtime", "i2i_trainer": "trainer", "i2i_export": "export"}[module.partition(".")[0]]
    path = tmp_path / part / Path(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True)
    path.write_text(source)

    found = violations(tmp_path)

    assert len(found) == 1
    assert violation in found[0]
    assert found[0].startswith(path.relative_to(tmp_path).as_posix())


def test_a_circle_is_caught(tmp_path):
    folder = tmp_path / "trainer" / "i2i_trainer"
    folder.mkdir(parents=True)
    (folder / "loop.py").write_text("from i2i_trainer.record import Recorder")
    (folder / "record.py").write_text("def f():\n    from i2i_trainer import loop")

    (found,) = violations(tmp_path)

    assert found.startswith("a circle: ")
    assert "i2i_trainer.loop -> i2i_trainer.record" in found or "i2i_trainer.record -> i2i_trainer.loop" in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("i2i_runtime.engines.onnxruntime", "import onnxruntime"),
        ("i2i_runtime.engines.tensorrt", "from i2i_runtime.engines.nvinfer import load_library"),
        ("i2i_runtime.engines.build", "from i2i_runtime.engines.manifest import Manifest"),
        ("i2i_runtime.closing", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import typing_extensions"),
        ("i2i_runtime.sinks.open", "from i2i_runtime.sinks.video import VideoSink"),
        ("i2i_runtime.__main__", "from i2i_runtime.cli import main"),
        ("i2i_trainer.loop", "import torch\nfrom i2i_runtime.card import Card"),
        ("i2i_export.parity", "from i2i_trainer.checkpoint import load_checkpoint"),
    ],
)
def test_an_import_that_the_layers_allow_is_left_alone(tmp_path, module, source):
    part = {"i2i_runtime": "runtime", "i2i_trainer": "trainer", "i2i_export": "export"}[module.partition(".")[0]]
    path = tmp_path / part / Path(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True)
    path.write_text(source)

    assert violations(tmp_path) == []
