"""Which names of TensorRT and CUDA our sources use, and which of them a real module lacks.

Read from the sources: a variable is called after what it holds, so `builder.reset` is `Builder.reset`.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from commands import REPOSITORY

SOURCES = [
    REPOSITORY / "runtime" / "i2i_runtime" / "engines" / f"{name}.py" for name in ("nvinfer", "build", "tensorrt")
]
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "network_input": "ITensor",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "timing_cache": "ITimingCache",
    "plan_memory": "IHostMemory",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "context": "IExecutionContext",
}
"""What the variables of our sources hold."""


@dataclass(frozen=True, order=True)
class Use:
    """A name that our sources use."""

    name: str
    """Dotted, below the module: `Builder.create_network`."""
    line: str
    """File and line."""
    guard: str = ""
    """The name that `hasattr` is asked for first; empty for what is used everywhere."""
    keyword: str = ""
    """An argument that is passed by its name."""


def uses_of_tensorrt(sources: list[Path] = SOURCES) -> list[Use]:
    """All uses of TensorRT's names."""
    return sorted({use for path in sources for use in _uses(path, {"trt": "", **CLASSES})})


def uses_of_cuda(sources: list[Path] = SOURCES) -> list[Use]:
    """All uses of the CUDA runtime's names."""
    return sorted({use for path in sources for use in _uses(path, {"cuda": ""})})


def missing(uses: list[Use], module: ModuleType) -> list[str]:
    """The names that `module` lacks, without those whose guard it lacks too."""

    def has(name: str) -> bool:
        try:
            functools.reduce(getattr, name.split("."), module)
        except AttributeError:
            return False
        return True

    lacking = {use.name for use in uses if not has(use.name) and (not use.guard or has(use.guard))}
    for use in uses:
        if use.keyword and has(use.name):
            text = functools.reduce(getattr, use.name.split("."), module).__doc__ or ""
            if f"{use.keyword}:" not in text:
                lacking.add(f"{use.name}({use.keyword}=)")
    return sorted(lacking)


def unnamed_objects(sources: list[Path] = SOURCES) -> list[str]:
    """Variables that hold an object of TensorRT without a name in `CLASSES`: their uses would not be seen."""
    found = []
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                continue
            function = ast.unparse(node.value.func)
            owner, _, method = function.rpartition(".")
            makes = (owner == "trt" or owner in CLASSES) and method.startswith(
                ("create", "deserialize", *"ABCDEFGHIOR")
            )
            names = [_bare(target) for target in node.targets]
            if makes and not any(name in CLASSES for name in names):
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    return found


def _bare(node: ast.AST) -> str:
    """`engine` of both `engine` and `self._engine`."""
    text = ast.unparse(node)
    return text.removeprefix("self._") if text.startswith("self._") else text


def _uses(path: Path, roots: dict[str, str]) -> Iterator[Use]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guards = _guarded_functions(tree, roots)

    def dotted(node: ast.AST) -> str | None:
        """The name below the module of `builder.create_network` or `trt.DataType.HALF`; None for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            if _bare(node) in roots:
                break
            parts.append(node.attr)
            node = node.value
        root = _bare(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        if root not in roots or not parts:
            return None
        # Of an object only the attribute counts: what it gives is a value.
        below = parts[::-1] if not roots[root] else parts[::-1][:1]
        return ".".join([*([roots[root]] if roots[root] else []), *below])

    def visit(node: ast.AST, guard: str) -> Iterator[Use]:
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.FunctionDef):
            guard = guards.get(node.name, guard)
        if isinstance(node, ast.ClassDef):
            for base in filter(None, map(dotted, node.bases)):
                methods = [child.name for child in node.body if isinstance(child, ast.FunctionDef)]
                yield from (Use(f"{base}.{method}", where, guard) for method in methods)
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            yield from (Use(name, where, guard, keyword.arg) for keyword in node.keywords if keyword.arg)
        if isinstance(node, ast.Attribute) and (name := dotted(node)):
            yield Use(name, where, guard)
            return
        if isinstance(node, ast.If) and (asked := _asked(node.test, roots)):
            yield from (use for child in node.body for use in visit(child, asked))
            yield from (use for child in node.orelse for use in visit(child, guard))
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, guard)

    yield from visit(tree, "")


def _asked(test: ast.AST, roots: dict[str, str]) -> str:
    """`Runtime.get_engine_validity` of `hasattr(runtime, "get_engine_validity")`, also behind an `and`."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return next(filter(None, (_asked(value, roots) for value in test.values)), "")
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "hasattr" and _bare(test.args[0]) in roots:
        owner, name = roots[_bare(test.args[0])], ast.literal_eval(test.args[1])
        return f"{owner}.{name}" if owner else str(name)
    return ""


def _guarded_functions(tree: ast.AST, roots: dict[str, str]) -> dict[str, str]:
    """Functions that are called below an `if hasattr(...)`, and what was asked for."""
    return {
        ast.unparse(call.func): asked
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and (asked := _asked(node.test, roots))
        for child in node.body
        for call in ast.walk(child)
        if isinstance(call, ast.Call)
    }
