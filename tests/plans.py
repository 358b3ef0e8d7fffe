"""Plans of small models, built by the real TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_card, save

from i2i_runtime.engines.build import BuildReport, build_plan
from i2i_runtime.engines.manifest import ShapeRange
from i2i_runtime.engines.nvinfer import gpu, load_library
from i2i_runtime.errors import ModelError


def _has_rtx() -> bool:
    try:
        load_library("tensorrt_rtx")
    except ModelError:
        return False
    return True


needs_rtx = pytest.mark.skipif(not _has_rtx(), reason="TensorRT-RTX is not installed: pip install 'i2i[tensorrt-rtx]'")
needs_no_gpu = pytest.mark.skipif(gpu() is not None, reason="says what happens without a GPU, and here is one")

RANGE = ShapeRange(name="image", smallest=(1, 3, 8, 8), typical=(1, 3, 16, 16), largest=(1, 3, 32, 64))


def conv_model(path: Path, size: tuple[int, int] | None = (16, 24), *, half: bool = False, seed: int = 0) -> Path:
    """A 3x3 convolution and a Tanh; `half` computes in float16 between casts, `size` None takes any size."""
    height, width = size or ("height", "width")
    weight = np.random.default_rng(seed).normal(0, 0.2, (3, 3, 3, 3)).astype(np.float16 if half else np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["y"], ["z"]),
        helper.make_node("Cast", ["z"], ["result"], to=TensorProto.FLOAT),
    ]
    tensors = [(name, TensorProto.FLOAT, [1, 3, height, width]) for name in ("image", "result")]
    return save(path, nodes, tensors[:1], tensors[1:], [numpy_helper.from_array(weight, "weight")], make_card(size))


def rtx_plan(onnx: Path, plan: Path | None = None, **options) -> BuildReport:
    """Build `onnx` with TensorRT-RTX, beside it unless told where."""
    return build_plan(
        onnx,
        plan or onnx.with_suffix(".plan"),
        "tensorrt_rtx",
        **{"card": make_card((16, 24)), "precision": "fp32", **options},
    )
