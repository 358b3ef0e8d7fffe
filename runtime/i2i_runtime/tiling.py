"""A frame larger than its model, in overlapping tiles without seams: `TiledTranslator("zebra.onnx")(image)`.

Norms over the whole picture are what tiles get wrong: each tile has a mean and a variance of its own, so neighbours
differ in colour. A tileable model (`i2i-export --tileable`) is given the statistics instead, and all tiles share them.

They come from the frame in small, one pass of the network (Thumbnail Instance Normalization: Chen et al. 2022, "Towards
Ultra-Resolution Neural Style Transfer via Thumbnail Instance Normalization"). A thumbnail has less detail than the
frame, so its statistics are near but not right. What the tiles find of themselves tells by how much: tiles and
thumbnail were normalised alike, so their difference in a layer is that of their resolutions, and hardly depends on
errors of the layers before. The next thumbnail is run with its own statistics moved by that difference. To take over
the tiles' statistics as they are does not converge: a wrong scale in one layer is passed on to all that follow, and
each of them would be corrected for it as well. The differences change little from frame to frame: a video keeps them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from i2i_runtime.card import Card, SizeRule
from i2i_runtime.closing import Closing
from i2i_runtime.engines.base import Device, Engine, Tensor, shape_words
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import BadOutputError, ModelError, UsageError
from i2i_runtime.frame import Image
from i2i_runtime.image import Fit, image_to_tensor, resize, tensor_to_image
from i2i_runtime.norm_statistics import Statistics, norm_channels
from i2i_runtime.translator import Assumptions, Translator

Floats = npt.NDArray[np.float32]

_TILE = 512
"""Side in pixels of the tiles of a model that takes any size and does not say which one it is meant for."""
_GUARD = 0.25
"""Share of an overlap, at each end, that is not used: what is nearest to a tile's border knows least."""
_MOST_PASSES = 4
SETTLED = 0.05
"""Statistics that were this near (`distance`) to those that the tiles have are good enough."""
_EPSILON = 1e-5
"""What norms add to a variance."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """How one side of a frame is cut."""

    starts: tuple[int, ...]
    """Where the tiles begin, in pixels."""
    windows: tuple[Floats, ...]
    """The weight of each pixel of each tile, (tile,); over all tiles that cover it, a pixel's weights sum to 1."""


def plan_line(length: int, tile: int, overlap: int, step: int = 1) -> Line:
    """Cut a side into tiles that overlap at least so far, spread evenly.

    >>> plan_line(1024, 512, 128).starts
    (0, 256, 512)

    Args:
        length: of the side, in pixels; a multiple of `step`, and not less than `tile`.
        tile: length of a tile; a multiple of `step`.
        overlap: of neighbours, at most half a tile.
        step: tiles begin at multiples of it. What a network halves must lie on the same grid in every tile.
    """
    stride = (tile - overlap) // step
    last = (length - tile) // step
    count = -(-last // stride) + 1
    starts = tuple(i * last // max(1, count - 1) * step for i in range(count))
    raw = np.zeros((count, length), np.float64)
    for i, start in enumerate(starts):
        window = np.ones(tile)
        if i > 0:
            window *= _rise(tile, starts[i - 1] + tile - start)
        if i < count - 1:
            window *= _rise(tile, start + tile - starts[i + 1])[::-1]
        raw[i, start : start + tile] = window
    # Neighbours' ramps sum to one already; where three tiles meet, they are brought to it.
    raw /= raw.sum(axis=0)
    windows = tuple(raw[i, start : start + tile].astype(np.float32) for i, start in enumerate(starts))
    return Line(starts=starts, windows=windows)


def _rise(tile: int, overlap: int) -> npt.NDArray[np.float64]:
    """Half a cosine from 0 to 1 in the middle of an overlap at the beginning of a tile."""
    if overlap <= 0:
        return np.ones(tile)
    guard = math.floor(overlap * _GUARD)
    at = (np.arange(tile) + 0.5 - guard) / (overlap - 2 * guard)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(at, 0, 1))


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """How frames of one size are cut."""

    fit: Fit
    """Pads a frame to what the tiles cover."""
    tile: tuple[int, int]
    """(height, width) in pixels."""
    rows: Line
    columns: Line

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def tiles(self) -> Iterator[tuple[slice, slice, Floats]]:
        """Where each tile lies, and its window (height, width)."""
        rows = zip(self.rows.starts, self.rows.windows, strict=True)
        columns = list(zip(self.columns.starts, self.columns.windows, strict=True))
        for (top, row), (left, column) in itertools.product(rows, columns):
            yield slice(top, top + self.tile[0]), slice(left, left + self.tile[1]), np.outer(row, column)


def plan_tiles(frame: tuple[int, int], tile: tuple[int, int], overlap: int, rule: SizeRule, step: int = 1) -> TilePlan:
    """Cut frames of a size.

    Args:
        frame: (height, width) in pixels; padded by reflection where it is less than a tile or no multiple of `step`.
        tile: (height, width); less along a side of free length where the frame is less.
        overlap: of neighbours, in pixels.
        rule: the sizes that the model takes.
        step: see `plan_line`.
    """
    height, width = (
        min(most, -(-side // rule.multiple_of) * rule.multiple_of) if fixed is None else most
        for side, most, fixed in zip(frame, tile, (rule.height, rule.width), strict=True)
    )
    tile = (height, width) if rule.allows((height, width)) else tile
    whole = [max(least, -(-side // step) * step) for side, least in zip(frame, tile, strict=True)]
    fit = Fit(source=frame, scaled=frame, model=(whole[0], whole[1]))
    rows, columns = (
        plan_line(length, side, min(overlap, side // 2), step) for length, side in zip(whole, tile, strict=True)
    )
    return TilePlan(fit=fit, tile=tile, rows=rows, columns=columns)


class TiledTranslator(Closing):
    """Runs an engine on frames of any size in tiles, each pixel at its own resolution.

    >>> translator = TiledTranslator("zebra.onnx")  # doctest: +SKIP
    >>> translator(cv2.imread("panorama.jpg")).shape  # doctest: +SKIP
    (3000, 9000, 3)

    Attributes:
        card: what the model expects and returns.
        assumed: what was taken for granted, or cannot be exact with this model; None where nothing is.
        provider: what really runs it.
        tile: (height, width) of the tiles in pixels.
        overlap: of neighbouring tiles, in pixels; at least that, since tiles are spread evenly.
        most_passes: over the tiles of one frame.
        passes: over the tiles of the last frame; 0 before the first.
    """

    def __init__(
        self,
        engine: str | Path | Engine,
        *,
        tile: tuple[int, int] | None = None,
        overlap: int | None = None,
        device: Device = "auto",
        threads: int | None = None,
        assumptions: Assumptions | None = None,
        from_previous: bool = False,
        most_passes: int = _MOST_PASSES,
    ) -> None:
        """Load the engine and check that it can translate tiles.

        Args:
            engine: a model file, or an engine that is open already.
            tile: (height, width) of the tiles of a model that takes any size; None: what it was tuned for, or 512.
            overlap: of neighbouring tiles in pixels; None: so far that no pixel is used from where the network would
                have seen beyond its tile, and at most a quarter of a tile.
            device: where to run it.
            threads: CPU threads for one inference; None leaves the choice to the engine.
            assumptions: facts about a file without a card.
            from_previous: begin with what was found out about the frame before, as long as the size stays: of a video,
                most frames then take one pass. A frame's result depends on those before it, if little.
            most_passes: over the tiles of one frame; each brings the statistics nearer to the frame's.

        Raises:
            ModelError: no image-to-image model, or one with norms over the whole picture that is not tileable.
            DeviceError: the device is not there.
            UsageError: a tile that the model does not take, or an overlap of more than half a tile.
        """
        self._engine = engine if isinstance(engine, Engine) else open_engine(engine, device, threads)
        whole = Translator(self._engine, assumptions=assumptions)
        self.card, self.provider, self.assumed = whole.card, whole.provider, whole.assumed
        self._is_uint8 = whole.is_uint8
        self._channels = norm_channels(self.card)
        if not self._channels and has_picture_norms(self.card):
            raise ModelError(
                f"{self._engine.name}: its norms look at the whole picture, and tiles would differ in colour; "
                f"export it for tiles: i2i-export CHECKPOINT --tileable -o {self._engine.name}"
            )
        self.assumed = "; ".join(filter(None, (self.assumed, _caveat(self.card)))) or None
        self.tile = _tile(self._engine.name, self.card, tile)
        self.overlap = _overlap(self.card, self.tile, overlap)
        self.most_passes, self._from_previous = most_passes, from_previous
        self.passes = 0
        self._plan: TilePlan | None = None
        self._nothing = np.zeros((1, 2, self._channels), np.float32)
        self._correction: Statistics | None = None
        self._blended = self._weighted = np.zeros(0, np.float32)

    def __call__(self, image: Image) -> Image:
        """Translate one frame.

        Args:
            image: (h, w, 3) uint8 BGR, any size.

        Returns:
            (h, w, 3) uint8 BGR of the same size.

        Raises:
            ModelError: the engine fails.
            BadOutputError: it returns NaN or infinity.
        """
        plan = self._plan_for(image)
        framed = plan.fit.apply(image)
        self.passes = 1
        if len(plan) == 1 or not self._channels:
            self._translate_tiles(framed, plan, None)
        else:
            thumbnail = resize(image, plan.tile)
            correction = self._correction if self._from_previous else None
            while True:
                small = self._statistics_of(thumbnail, correction)
                used = small if correction is None else corrected(small, correction)
                found = self._translate_tiles(framed, plan, used)
                correction = self._correction = correction_between(small, found)
                if self.passes >= self.most_passes or distance(used, found) <= SETTLED:
                    break
                self.passes += 1
        return plan.fit.undo(self._picture())

    def _plan_for(self, image: Image) -> TilePlan:
        height, width = image.shape[:2]
        if self._plan is None or self._plan.fit.source != (height, width):
            self._plan = plan_tiles((height, width), self.tile, self.overlap, self.card.size, self._step)
            self._correction = None
            sides, channels = self._plan.fit.model, self.card.output.channels
            self._blended = np.zeros((*sides, channels) if self._is_uint8 else (channels, *sides), np.float32)
            sides = self._plan.tile
            self._weighted = np.empty((*sides, channels) if self._is_uint8 else (channels, *sides), np.float32)
        return self._plan

    @property
    def _step(self) -> int:
        """A multiple as coarse as a U-Net's leaves no room for overlaps, and its tiles are not exact anyway."""
        multiple = self.card.size.multiple_of
        return multiple if 4 * multiple <= min(self.tile) - self.overlap else 1

    def _translate_tiles(self, framed: Image, plan: TilePlan, used: Statistics | None) -> Statistics:
        """Fill the blended result, and give the statistics of the frame."""
        self._blended[...] = 0
        inside = _inside(plan.fit)
        sums = np.zeros((3, self._channels))
        total = 0.0
        for rows, columns, window in plan.tiles():
            result, found = self._run(framed[rows, columns], used, window * inside[rows, columns])
            if self._is_uint8:
                np.multiply(result, window[..., None], out=self._weighted)
                self._blended[rows, columns] += self._weighted
            else:
                np.multiply(result, window, out=self._weighted)
                self._blended[:, rows, columns] += self._weighted
            weight = float((window * inside[rows, columns]).sum(dtype=np.float64))
            mean, variance = found[0].astype(np.float64)
            sums += weight * np.stack([mean, variance, mean * mean])
            total += weight
        mean, within, square = sums / total
        # The law of total variance; the means are those of few tiles, and float64 keeps the difference exact enough.
        return np.stack([mean, within + np.maximum(square - mean * mean, 0)])[None].astype(np.float32)

    def _run(self, tile: Image, used: Statistics | None, window: Floats) -> tuple[Tensor, Statistics]:
        """The result of one tile without its batch axis, and its statistics under a window.

        `used`: what to normalise with; None is the tile's own statistics.
        """
        if not self._channels:
            return self._engine.run(self._as_input(tile))[0], np.zeros((1, 2, 0), np.float32)
        return self._run_with(tile, self._nothing if used is None else used, used is None, window)

    def _statistics_of(self, thumbnail: Image, correction: Statistics | None) -> Statistics:
        """A thumbnail's own statistics, with each layer normalised by the corrected ones."""
        given = self._nothing if correction is None else correction
        return self._run_with(thumbnail, given, True, np.ones(thumbnail.shape[:2], np.float32))[1]

    def _run_with(self, picture: Image, given: Statistics, is_own: bool, window: Floats) -> tuple[Tensor, Statistics]:
        result, found = self._engine.run_all(
            self._as_input(picture), given, np.array([is_own], np.float32), window[None, None]
        )
        return result[0], np.asarray(found, np.float32)

    def _as_input(self, tile: Image) -> Tensor:
        if not self._is_uint8:
            return image_to_tensor(tile, self.card.input).astype(self._engine.inputs[0].dtype, copy=False)
        if self.card.input.channels == 1:
            tile = np.asarray(cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY), np.uint8)[..., None]
        return np.ascontiguousarray(tile)[None]

    def _picture(self) -> Image:
        """The blended result as (h, w, 3) uint8 BGR."""
        if self._is_uint8:
            levels = np.asarray(cv2.convertScaleAbs(self._blended), np.uint8).reshape(self._blended.shape)
            return levels if self.card.output.channels == 3 else np.repeat(levels, 3, axis=2)
        if not np.isfinite(self._blended.sum(dtype=np.float64)):
            raise BadOutputError(f"{self._engine.name}: the model returned NaN or infinity")
        return tensor_to_image(self._blended, self.card.output)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def correction_between(before: Statistics, after: Statistics) -> Statistics:
    """What moves some statistics to others, (1, 2, c) as all of them: see `norm_statistics.GIVEN`."""
    spread, wanted = before[0, 1] + _EPSILON, after[0, 1] + _EPSILON
    return np.stack([(after[0, 0] - before[0, 0]) / np.sqrt(spread), np.log(wanted / spread)])[None]


def corrected(statistics: Statistics, correction: Statistics) -> Statistics:
    """The inverse of `correction_between`: `statistics` moved by `correction`."""
    spread = statistics[0, 1] + _EPSILON
    mean = statistics[0, 0] + correction[0, 0] * np.sqrt(spread)
    return np.stack([mean, spread * np.exp(correction[0, 1]) - _EPSILON])[None]


def distance(before: Statistics, after: Statistics) -> float:
    """How far two sets of statistics are apart: the root mean square over the channels.

    A mean counts in standard deviations, and a deviation by the logarithm of its ratio: what a norm's result is shifted
    by and scaled with.
    """
    shift, variance = correction_between(after, before)[0]
    return float(np.sqrt(np.mean(shift * shift + variance * variance / 4)))


def has_picture_norms(card: Card) -> bool:
    """Whether a generator normalises with statistics of the whole picture, by what its card says of it."""
    name, arguments = card.generator.name, card.generator.arguments
    # What a card leaves out has the network's own default.
    default = "batch" if name.startswith("unet_") else "none" if name.startswith("student_") else "instance"
    norms = {arguments.get("norm", default)}
    if name.startswith("mobile_"):
        norms.add(arguments.get("inner_norm", "instance"))
    if card.model_type == "unknown" or not norms & {"instance", "instance_affine", "batch"}:
        return False
    of_picture = card.export is not None and card.export.norm_statistics == "image"
    return bool(norms & {"instance", "instance_affine"}) or of_picture


def radius(card: Card) -> int | None:
    """How far from a pixel a residual generator looks, in pixels; None of networks that look at the whole picture."""
    name, arguments = card.generator.name.removeprefix("mobile_"), card.generator.arguments
    if name.startswith("student_") and name.endswith("blocks"):
        blocks = int(name.removeprefix("student_").removesuffix("blocks"))
        # At a quarter of the size a 3x3 convolution at each end and two in a block. A pixel lies at one corner of its
        # patch and may look to the other: 3 further, and 2 more around the layers at half of the size.
        return 4 * (2 + 2 * blocks) + (5 if arguments.get("half", 0) else 3)
    if not (name.startswith("resnet_") and name.endswith("blocks")):
        return None
    halvings = int(arguments.get("n_downsampling", 2))
    blur = int(arguments.get("antialias_down", 0)) // 2 + int(arguments.get("antialias_up", 0)) // 2
    blocks = int(name.removeprefix("resnet_").removesuffix("blocks"))
    # A 7x7 convolution at each end, at each halving and doubling 3x3 and a blur, and in a block two of 3x3.
    at_scales = (2 + blur) * ((1 << halvings) - 1)
    return 3 + 3 + at_scales + 2 * blocks * (1 << halvings)


def _inside(fit: Fit) -> Floats:
    """(h, w): 1 where a fitted frame is picture, 0 where it is padding."""
    inside = np.ones(fit.scaled, np.float32)
    spare = [whole - part for whole, part in zip(fit.model, fit.scaled, strict=True)]
    return np.pad(inside, [(both // 2, both - both // 2) for both in spare])


def _caveat(card: Card) -> str | None:
    """What tiles cannot do with a model."""
    if card.model_type == "unknown":
        return "if its norms look at the whole picture, its tiles will differ in colour"
    if radius(card) is None:
        return f"{card.generator.name} looks at all of a picture: tiles are translated as well as each tile tells"
    return None


def _tile(name: str, card: Card, asked: tuple[int, int] | None) -> tuple[int, int]:
    rule, profile = card.size, card.export.profile if card.export is not None else None
    usual = profile.typical if profile is not None else (-(-_TILE // rule.multiple_of) * rule.multiple_of,) * 2
    tile = rule.height or (asked or usual)[0], rule.width or (asked or usual)[1]
    if asked is not None and asked != tile:
        raise UsageError(f"--tile {shape_words(asked)}: {name} takes {shape_words(tile)} only; leave its size out")
    if not rule.allows(tile):
        raise UsageError(f"--tile {shape_words(tile)}: {name} takes multiples of {rule.multiple_of} in its limits")
    return tile


def _overlap(card: Card, tile: tuple[int, int], asked: int | None) -> int:
    if asked is None:
        reach = radius(card)
        quarter = min(tile) // 4
        return quarter if reach is None else min(quarter, round(reach / _GUARD))
    if not 0 <= asked <= min(tile) // 2:
        raise UsageError(f"--overlap {asked}: expected 0 to {min(tile) // 2}, half of a tile")
    return asked
