"""Curves as pictures. Matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from measuring.curves import Curve
from reporting.curve_words import SHOWN
from reporting.plots import COLOURS, Plot, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "ONNX Runtime CPU": COLOURS["onnxruntime"],
    "ONNX Runtime CUDA": COLOURS["torch-compile"],
    "OpenVINO CPU": COLOURS["openvino"],
    "export to ONNX": COLOURS["torch"],
    "proof": COLOURS["tensorrt"],
    "TensorRT-RTX build": COLOURS["tensorrt-rtx"],
}
_HEIGHT = 4.2
_ROW = 0.2
"""Inches for each row of the legend."""


def draw_curves(curves: Sequence[Curve], path: Path) -> Plot:
    """Draw curves that are of the same kind and model: medians, and the range of the rounds as a band.

    Args:
        curves: at least one.
        path: of the PNG to write.
    """
    shown = SHOWN[curves[0].kind]
    labels: dict[float, dict[str, None]] = defaultdict(dict)
    for each in (each for curve in curves for each in curve.points):
        labels[each.x][each.label] = None
    with picture(
        path,
        title=shown.title,
        subtitle=f"{curves[0].model}; lines: medians, bands: lowest to highest round",
        height=_HEIGHT,
        top=0.1 + _ROW * -(-len(curves) // 2),
    ) as axes:
        for curve in curves:
            _draw(axes, curve, shown.scale)
        # Sizes, batches and threads double from point to point; the line that memory follows is straight on plain axes.
        is_plain = curves[0].kind == "memory"
        axes.set_xlabel("megapixels" if is_plain else f"{shown.x}, logarithmic")
        axes.set_ylabel(f"{shown.y}, logarithmic" if shown.is_power else shown.y)
        if not is_plain:
            axes.set_xscale("log")
            axes.set_xticks(sorted(labels), ["\n".join(labels[x]) for x in sorted(labels)])
            axes.set_xticks([], minor=True)
        if shown.is_power:
            axes.set_yscale("log")
            _few_digits(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.grid(True)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8, handlelength=2.4,
            borderpad=0.2,
        )  # fmt: skip
    reading = (
        "Along both axes equal steps are equal factors: a straight line is a power law, and its slope the exponent."
        if shown.is_power
        else "The upward axis begins at 0."
    )
    return Plot(path=path, title=shown.title, reading=reading)


def _draw(axes: Axes, curve: Curve, scale: float) -> None:
    colour = _COLOURS.get(curve.engine, "#000000")
    is_dynamic = curve.graph is not None and curve.graph.startswith("dynamic")
    x = [each.x for each in curve.points]
    axes.fill_between(
        x, [scale * each.low for each in curve.points], [scale * each.high for each in curve.points],
        color=colour, alpha=0.2, linewidth=0,
    )  # fmt: skip
    axes.plot(
        x, [scale * each.y for each in curve.points],
        color=colour, linestyle="--" if is_dynamic else "-", marker="o", markersize=4, linewidth=1.5, label=curve.name,
    )  # fmt: skip


def _few_digits(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
