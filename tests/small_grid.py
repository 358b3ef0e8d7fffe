"""A profile of a few small students, in seconds."""

from __future__ import annotations

from i2i_export.profile import Grid

SMALL = Grid(
    widths=(8, 16),
    inners={"plain": (8, 16), "separable": (8, 16), "grouped": (16,)},
    half_widths=(8, 16),
    halves=(8, 16),
    turns=2,
    turn_s=0.0,
)
