"""Where the time of a frame goes, as a picture. Matplotlib is imported when it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from measuring.stages import STAGES, THREADS, Stages
from reporting.plots import Plot, picture

_COLOURS = dict(zip(STAGES, ("#56B4E9", "#F0E442", "#0072B2", "#E69F00", "#009E73"), strict=True))
"""Okabe and Ito 2008, as in `plots`."""
_WAITING = "#e6e6e6"
_ROOM = 9.0
"""Percent of the axis that a number needs."""


def draw_stages(runs: Mapping[str, Stages], path: Path) -> Plot:
    """Draw the stages of a plain loop, and of the pipeline's threads below them, in percent of the loop's time.

    Args:
        runs: by what was run.
        path: of the PNG to write.
    """
    bars: list[tuple[str, list[tuple[str, float]], float, str]] = []
    for name, run in runs.items():
        loop = [(stage, 100 * run.stages[stage].share.median) for stage in STAGES]
        bars.append((f"{name}: plain loop", loop, 0.0, ""))
        whole = 100 * run.pipeline_over_loop
        for thread, its in THREADS.items():
            busy = [(stage, whole * run.stages[stage].busy.median) for stage in its]
            says = f"{100 * run.busy[thread].median:.0f} % busy"
            bars.append((f"pipeline, {thread} thread", busy, whole, says))
    names, ends = [bar[0] for bar in bars], [bar[3] for bar in bars]
    gaps = 0.5 * (len(runs) - 1)
    places = [place + 0.5 * (place // (1 + len(THREADS))) for place in range(len(bars))]
    title = "Where the time of a frame goes"
    with picture(
        path,
        title=title,
        subtitle="in percent of the plain loop's time for a frame",
        height=1.45 + 0.3 * (len(bars) + gaps),
        left=names,
        right=ends,
        top=0.3,
    ) as axes:
        high = max(100.0, *(whole for _, _, whole, _ in bars))
        for place, (_, parts, whole, says) in zip(places, bars, strict=True):
            left = 0.0
            for stage, width in parts:
                axes.barh(place, width, left=left, height=0.72, color=_COLOURS[stage])
                if width >= _ROOM * high / 100:
                    ink = "white" if stage == "inference" else "#222222"
                    axes.text(left + width / 2, place, f"{width:.0f}", ha="center", va="center", fontsize=8, color=ink)
                left += width
            if whole > left:
                axes.barh(place, whole - left, left=left, height=0.72, color=_WAITING)
            axes.annotate(
                says, (1, place), (8, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                va="center_baseline", annotation_clip=False,
            )  # fmt: skip
        axes.set_yticks(places)
        axes.set_yticklabels(names)
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")
        axes.set_xlim(0, 1.01 * high)
        axes.set_xlabel("%")
        keys = [axes.barh(0, 0, color=colour, label=key) for key, colour in (*_COLOURS.items(), ("waiting", _WAITING))]
        axes.legend(
            handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(keys), frameon=False, fontsize=8,
            handlelength=1.0, columnspacing=1.2, borderpad=0.2,
        )  # fmt: skip
    reading = (
        "The loop does one stage after the other. The pipeline's threads work beside each other, so that its bars are "
        "as long as its busiest thread takes; what is left of a bar is waiting."
    )
    return Plot(path=path, title=title, reading=reading)
