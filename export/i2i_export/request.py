"""What the user asked `i2i-export` for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from i2i_export.targets import Target
from i2i_runtime.engines.build import DEFAULTS, BuildOptions

Sides = tuple[int, int]
"""(height, width) in pixels."""
GraphIo = Literal["float", "uint8"]
Precision = Literal["fp32", "fp16", "int8"]
Calibration = Literal["percentile", "entropy"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `i2i-export`, where each is explained."""

    output: Path
    target: Target
    precision: Precision = "fp32"
    graph_io: Literal["auto"] | GraphIo = "auto"
    size: Sides | None = None
    is_dynamic: bool = False
    min_size: Sides | None = None
    max_size: Sides | None = None
    max_batch: int = 1
    style: int | None = None
    is_tileable: bool = False
    pictures: str | None = None
    tolerance: float | None = None
    min_psnr: float | None = None
    calibration: Calibration = "percentile"
    build: BuildOptions = DEFAULTS
    use_cache: bool = True
    triton: Path | None = None
