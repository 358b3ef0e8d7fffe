"""A page that shows a run: its curves, its sample pictures and its settings; opens from the disk, needs no network."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

_POINTS = 400
"""Of a curve at most; of more, each point is the mean of its neighbours."""
_COLOURS = ("#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#b82e2e", "#66aa00")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 420, 190, 52, 24
"""Pixels of a chart, and of the room for its labels."""
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1300px; margin: 2rem auto; padding: 0 1rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0 0 1.5rem; } img { max-width: 100%; } figcaption { opacity: .75; }
svg text { fill: currentColor; font-size: 11px; } .axis { stroke: currentColor; opacity: .3; }
pre { overflow: auto; }
"""


def gallery(run: Path) -> str:
    """The page of a run's folder, as HTML: curves of metrics.jsonl, sample pictures from the newest on, config.toml."""
    name = html.escape(run.resolve().name)
    samples = sorted((run / "samples").glob("step_*.png"), reverse=True)
    pictures = "\n".join(
        f'<figure><img loading="lazy" src="samples/{path.name}" alt="samples">'
        f"<figcaption>step {int(path.stem.removeprefix('step_')):,}</figcaption></figure>"
        for path in samples
    )
    config = run / "config.toml"
    settings = html.escape(config.read_text(encoding="utf-8")) if config.exists() else ""
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
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else ():
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            if isinstance(value, int | float) and name not in ("epoch", "pictures"):
                curves.setdefault(name, []).append((step, value))
    alone = [name for name in curves if name.startswith("val_") or name in ("lr", "images_per_s")]
    losses = {name: curves[name] for name in curves if name not in alone}
    if losses:
        yield _chart("losses (smoothed)", losses)
    for name in sorted(alone, key=lambda name: not name.startswith("val_")):
        yield _chart(name, {name: curves[name]})


def _chart(title: str, curves: dict[str, list[tuple[float, float]]]) -> str:
    thinned = {name: _thin(points) for name, points in curves.items()}
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
    base, top = _HEIGHT - _BOTTOM, 8
    return f"""<figure><figcaption>{html.escape(title)}</figcaption>
<svg width="{_WIDTH}" height="{_HEIGHT}" role="img">
<line class="axis" x1="{_LEFT}" y1="{base}" x2="{_WIDTH - 8}" y2="{base}"/>
<line class="axis" x1="{_LEFT}" y1="{top}" x2="{_LEFT}" y2="{base}"/>
<text x="{_LEFT - 4}" y="{top + 8}" text-anchor="end">{high:.4g}</text>
<text x="{_LEFT - 4}" y="{base}" text-anchor="end">{low:.4g}</text>
<text x="{_LEFT}" y="{_HEIGHT - 8}">{left:,.0f}</text>
<text x="{_WIDTH - 8}" y="{_HEIGHT - 8}" text-anchor="end">step {right:,.0f}</text>
{"".join(lines)}</svg><br><small>{" &nbsp; ".join(legend)}</small></figure>
"""


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // _POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
