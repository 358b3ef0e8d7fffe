"""Run an exported image-to-image generator on pictures, videos and cameras. Never imports torch.

>>> from i2i_runtime import Translator
>>> translator = Translator("facades.onnx")  # doctest: +SKIP
>>> result = translator(image)  # (h, w, 3) uint8 BGR in, the same out  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read by OpenCV when it is first imported: refuse pictures that would take gigabytes to decode (67 Mpx).
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
# And say nothing beside our own one line for a camera that is not there or a broken picture.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

if TYPE_CHECKING:
    from i2i_runtime.card import Card
    from i2i_runtime.frame import Frame
    from i2i_runtime.label_translator import LabelTranslator
    from i2i_runtime.pipeline import Options, Pipeline
    from i2i_runtime.sinks.open import open_sink
    from i2i_runtime.sources.open import open_source
    from i2i_runtime.tiling import TiledTranslator
    from i2i_runtime.translator import Translator

__all__ = [
    "Card",
    "Frame",
    "LabelTranslator",
    "Options",
    "Pipeline",
    "TiledTranslator",
    "Translator",
    "open_sink",
    "open_source",
]
__version__ = "0.1.0"

_HOMES = {
    "Card": "card",
    "Frame": "frame",
    "LabelTranslator": "label_translator",
    "Options": "pipeline",
    "Pipeline": "pipeline",
    "TiledTranslator": "tiling",
    "Translator": "translator",
    "open_sink": "sinks.open",
    "open_source": "sources.open",
}


def __getattr__(name: str) -> Any:
    # OpenCV, PyAV and NumPy are loaded when something that needs them is first asked for: `--help` stays quick.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
