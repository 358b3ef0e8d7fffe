"""The model types: one file each, which names its settings, networks and losses.

This module finds them by their files and reads settings and docstrings without importing torch.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2i_trainer import config as config_module
from i2i_trainer.config import ModelConfig

if TYPE_CHECKING:
    from i2i_trainer.models.base import Model, Task


def model_names() -> list[str]:
    """The model types there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


@cache
def _syntax(name: str) -> ast.Module:
    return ast.parse(Path(__path__[0], f"{name}.py").read_text(encoding="utf-8"))


def summary(name: str) -> str:
    """The first sentence of a model type's docstring."""
    return (ast.get_docstring(_syntax(name)) or name).splitlines()[0]


def config_type(name: str) -> type[ModelConfig]:
    """The settings of a model type, without importing the networks it builds.

    Its class `Config` is run by itself, with the names of `i2i_trainer.config` around it: importing the file would
    load torch, and `--help` would take seconds.
    """
    (definition,) = (n for n in _syntax(name).body if isinstance(n, ast.ClassDef) and n.name == "Config")
    names: dict[str, Any] = {**vars(config_module), "__name__": f"{__name__}.{name}"}
    exec(compile(ast.Module([definition], []), f"{name}.py", "exec", dont_inherit=True), names)  # noqa: S102
    found: type[ModelConfig] = names["Config"]
    return found


def build_model(name: str, config: ModelConfig, task: Task) -> Model[Any]:
    """A model type with fresh networks; this is where torch comes in.

    Args:
        name: one of `model_names()`.
        config: its settings.
        task: what it is to translate.

    Raises:
        UsageError: the settings do not go together.
    """
    return model_type(name)(config, task)


def model_type(name: str) -> type[Model[Any]]:
    """The class of a model type."""
    found: type[Model[Any]] = importlib.import_module(f"{__name__}.{name}").Model
    return found
