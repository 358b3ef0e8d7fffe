"""A page that shows a run: its curves, its sample pictures and its settings; opens from the disk, needs no network."""

from __future__ import annotations

import html
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_POINTS = 400
"""Of a curve at most; of more, each point is the mean of its neighbours, and the title says of how many."""
_NO_CURVE = {"step", "epoch", "pictures"}
_COLOURS = ("#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#b82e2e", "#66aa00")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 420, 190, 52, 24
"""Pixels of a chart, and of the room for its labels."""
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1300px; margin: 2rem auto; padding: 0 1rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0 0 1.5rem; } img, svg { max-width: 100%; } figcaption { opacity: .75; }
svg text { fill: currentColor; font-size: 11px; } .axis { stroke: currentColor; opacity: .3; }
pre { overflow: auto; }
"""


def gallery(run: Path) -> str:
    """The page of a run's folder, as HTML: curves of metrics.jsonl, sample pictures from the newest on, config.toml."""
    name = html.escape(run.resolve().name)
    names = [path.name for path in (run / "samples").glob("step_*.png")]
    steps = {int(match[1]): name for name in names if (match := re.fullmatch(r"step_([0-9]+)\.png", name))}
    pictures = "\n".join(
        f'<figure><img loading="lazy" src="samples/{steps[step]}" alt="samples of step {step}">'
        f"<figcaption>step {step:,}</figcaption></figure>"
        for step in sorted(steps, reverse=True)
    )
    config = run / "config.toml"
    settings = html.escape(config.read_text(encoding="utf-8", errors="replace")) if config.exists() else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title><style>{_STYLE}</style></head>
<body><h1>{name}</h1>
<details><summary>Settings</summary><pre>{settings}</pre></details>
<h2>Curves</h2><div class="charts">{"".join(_charts(run / "metrics.jsonl"))}</div>
<h2>Samples</h2>
{pictures}
</body></html>
"""


def _charts(metrics: Path) -> Iterable[str]:
    """The losses in one chart, the learning rate in one, and each metric of the evaluations in one of its own."""
    curves: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines() if metrics.exists() else ():
        try:
            values = json.loads(line)
            step = values["step"]
        except (ValueError, KeyError, TypeError):
            continue  # a training does not end for a line that a curve can do without
        for name, value in values.items():
            # Neither text nor NaN and infinity have a place on an axis.
            if name not in _NO_CURVE and isinstance(value, (int, float)) and math.isfinite(value):
                curves[name].append((step, value))
    alone = [name for name in curves if name.startswith("val_") or name in ("lr", "images_per_s")]
    losses = {name: curves[name] for name in curves if name not in alone}
    if losses:
        yield _chart("losses", losses)
    for name in sorted(alone, key=lambda name: not name.startswith("val_")):
        yield _chart(name, {name: curves[name]})


def _chart(title: str, curves: dict[str, list[tuple[float, float]]]) -> str:
    every = -(-max(map(len, curves.values())) // _POINTS)
    thinned = {name: _thin(points, every) for name, points in curves.items()}
    xs = [x for points in thinned.values() for x, _ in points]
    ys = [y for points in thinned.values() for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    across, up = right - left or 1.0, high - low or 1.0

    def place(x: float, y: float) -> str:
        return (
            f"{_LEFT + (x - left) / across * (_WIDTH - _LEFT - 8):.1f},"
            f"{8 + (high - y) / up * (_HEIGHT - _BOTTOM - 8):.1f}"
        )

    lines, legend = [], []
    for number, (name, points) in enumerate(thinned.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(place(*point) for point in points)
        dot = place(*points[-1]).split(",")
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>'
            f'<circle cx="{dot[0]}" cy="{dot[1]}" r="2.5" fill="{colour}"/>'
        )
        legend.append(f'<span style="color:{colour}">&#9644; {html.escape(name)} {points[-1][1]:.4g}</span>')
    axes = []
    for share in (0.0, 0.5, 1.0) if high > low else (0.0,):
        y = place(left, low + share * up).split(",")[1]
        axes.append(
            f'<line class="axis" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - 8}" y2="{y}"/>'
            f'<text x="{_LEFT - 4}" y="{y}" dy="4" text-anchor="end">{low + share * up:.4g}</text>'
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")) if right > left else ((0.0, "start"),):
        x = place(left + share * across, low).split(",")[0]
        axes.append(f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{left + share * across:,.0f}</text>')
    caption = html.escape(title) + (f" (each point the mean of {every} lines)" if every > 1 else "")
    return f"""<figure><figcaption>{caption}</figcaption>
<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{html.escape(title)} over steps">
{"".join(axes)}
{"".join(lines)}</svg><br><small>{" &nbsp; ".join(legend)}</small></figure>
"""


def _thin(points: list[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
