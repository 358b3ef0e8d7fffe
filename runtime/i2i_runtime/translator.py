"""An image in, the translated image out: `Translator("facades.onnx")(image)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from i2i_runtime.card import Architecture, Card, ImageSpec, SizeRule
from i2i_runtime.closing import Closing
from i2i_runtime.engines.base import Device, Engine, Tensor, TensorSpec
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import BadOutputError, ModelError, UsageError
from i2i_runtime.frame import Image
from i2i_runtime.image import Fit, FitMode, image_to_tensor, plan_fit, tensor_to_image
from i2i_runtime.norm_statistics import FOUND, INPUTS, norm_channels, own_statistics

_FOREIGN_BATCH = 8
"""Images at once for a model of any batch that does not say how many it was made for."""
_KNOWN_SIZES = 64
"""Sizes of images whose fit is remembered: a folder of photographs may hold thousands."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What to take for granted about an ONNX file that carries no card; None: the defaults of `ImageSpec`."""

    value_range: tuple[float, float] | None = None
    colour: Literal["RGB", "BGR"] | None = None


class Translator(Closing):
    """Runs an engine on images of any size and brings each result back to the image's own size.

    >>> translator = Translator("facades.onnx")  # doctest: +SKIP
    >>> translator(cv2.imread("labels.jpg")).shape  # doctest: +SKIP
    (256, 256, 3)

    Attributes:
        card: what the model expects and returns.
        assumed: what was taken for granted because the file carries no card; None where it does.
        provider: what really runs it.
    """

    def __init__(
        self,
        engine: str | Path | Engine,
        *,
        fit: FitMode = "letterbox",
        device: Device = "auto",
        threads: int | None = None,
        assumptions: Assumptions | None = None,
    ) -> None:
        """Load the engine and check that it translates images.

        Args:
            engine: a model file, or an engine that is open already.
            fit: how images get a fixed model size: `letterbox` keeps the aspect, `stretch` does not.
            device: where to run it.
            threads: CPU threads for one inference; None leaves the choice to the engine.
            assumptions: facts about a file without a card.

        Raises:
            ModelError: the file is not a usable image-to-image model.
            DeviceError: the device is not there.
            UsageError: assumptions about a model that states the facts.
        """
        self._engine = engine if isinstance(engine, Engine) else open_engine(engine, device, threads)
        self._fit_mode = fit
        self.provider = self._engine.provider
        self.assumed: str | None = None
        if self._engine.card is None:
            self.card = _assumed_card(self._engine, assumptions or Assumptions())
            if self.is_uint8 and assumptions not in (None, Assumptions()):
                raise UsageError(f"{self._engine.name}: it takes uint8 pictures; drop --colour and --value-range")
            self.assumed = f"{self._engine.name} carries no card: assuming {self._assumption()}"
        elif assumptions not in (None, Assumptions()):
            raise UsageError(
                f"{self._engine.name}: its card states colour and value range; drop --colour and --value-range"
            )
        else:
            self.card = self._engine.card
            if self.card.labels is not None:
                raise ModelError(
                    f"{self._engine.name}: takes label maps; use i2i-run --images LABELS, or LabelTranslator in Python"
                )
            _check_tensors(self._engine, self.card)
        self._fits: dict[tuple[int, int], Fit] = {}
        self._output: Tensor | None = None
        self._beside_images: tuple[Tensor, ...] = ()

    @property
    def is_uint8(self) -> bool:
        """Whether the graph takes and returns uint8 images itself."""
        return self._engine.inputs[0].dtype == np.uint8

    @property
    def max_batch(self) -> int:
        """How many images `batch` gives the engine at once."""
        if self._engine.inputs[0].shape[0] is not None:
            return 1
        profile = self.card.export.profile if self.card.export else None
        return profile.batch if profile else _FOREIGN_BATCH

    def __call__(self, image: Image) -> Image:
        """Translate one image.

        Args:
            image: (h, w, 3) uint8 BGR, any size.

        Returns:
            (h, w, 3) uint8 BGR of the same size.

        Raises:
            ModelError: the engine fails.
            BadOutputError: it returns NaN or infinity.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[Image]) -> list[Image]:
        """Translate several images, in one run of the engine where it takes `max_batch` of them and their sizes allow.

        Args:
            images: each (h, w, 3) uint8 BGR, of any size.

        Returns:
            A result for each, (h, w, 3) uint8 BGR of its size.

        Raises:
            ModelError: the engine fails.
            BadOutputError: it returns NaN or infinity for one of them.
        """
        fits = [self._fit(image) for image in images]
        fitted = [fit.apply(image) for fit, image in zip(fits, images, strict=True)]
        at_once = self.max_batch if len({fit.model for fit in fits}) == 1 else 1
        results = [result for start in range(0, len(fitted), at_once) for result in self._run(fitted[start:][:at_once])]
        return [fit.undo(result) for fit, result in zip(fits, results, strict=True)]

    def _fit(self, image: Image) -> Fit:
        height, width = image.shape[:2]
        if (height, width) not in self._fits:
            if len(self._fits) >= _KNOWN_SIZES:
                self._fits.clear()
            self._fits[height, width] = plan_fit(height, width, self.card.size, self._fit_mode)
        return self._fits[height, width]

    def _assumption(self) -> str:
        if self.is_uint8:
            return "uint8 pictures, BGR"
        low, high = self.card.input.value_range
        return f"{self.card.input.colour} values from {low:g} to {high:g} (--colour, --value-range)"

    def _run(self, fitted: Sequence[Image]) -> list[Image]:
        """Results of images of one size that the model takes."""
        results = self._run_uint8(fitted) if self.is_uint8 else self._run_float(fitted)
        (expected_height, expected_width), (height, width) = fitted[0].shape[:2], results[0].shape[:2]
        if (height, width) != (expected_height, expected_width):
            raise ModelError(
                f"{self._engine.name}: expected a result of the input's size, {expected_width}x{expected_height}; "
                f"found {width}x{height}"
            )
        return results

    def _run_uint8(self, fitted: Sequence[Image]) -> list[Image]:
        images = np.stack(fitted)
        if self.card.input.channels == 1:
            grey = [np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8) for image in fitted]
            images = np.stack(grey)[..., None]
        results = self._engine.run(images, *self._beside(len(images), images.shape[1:3]))
        return list(results if results.shape[-1] == 3 else np.repeat(results, 3, axis=-1))

    def _run_float(self, fitted: Sequence[Image]) -> list[Image]:
        tensors = [image_to_tensor(image, self.card.input) for image in fitted]
        tensor = (tensors[0] if len(tensors) == 1 else np.concatenate(tensors)).astype(
            self._engine.inputs[0].dtype, copy=False
        )
        # The result before is a picture by now: its memory serves the next one of that shape.
        before = self._output
        is_alike = before is not None and (len(before), *before.shape[2:]) == (len(tensor), *tensor.shape[2:])
        beside = self._beside(len(tensor), tensor.shape[2:])
        output = self._output = self._engine.run(tensor, *beside, out=before if is_alike else None)
        with np.errstate(invalid="ignore"):  # infinity - infinity
            total = output.sum(dtype=np.float64)
        if not np.isfinite(total):
            raise BadOutputError(f"{self._engine.name}: the model returned NaN or infinity")
        return [tensor_to_image(each, self.card.output) for each in output]

    def _beside(self, batch: int, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        """What a tileable model takes beside images, so that each is normalised with its own statistics."""
        channels = norm_channels(self.card)
        if channels and (not self._beside_images or self._beside_images[-1].shape != (batch, 1, *size)):
            self._beside_images = own_statistics(channels, (size[0], size[1]), batch)
        return self._beside_images

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


_EXPECTED = "one input and one output, both float NCHW or both uint8 NHWC, with 1 or 3 channels and equal sizes"


def _image_axes(spec: TensorSpec) -> tuple[int | None, int | None, int | None]:
    """(channels, height, width) of a tensor."""
    if len(spec.shape) != 4:
        return None, None, None
    _, *rest = spec.shape
    if spec.dtype == np.uint8:
        height, width, channels = rest
    else:
        channels, height, width = rest
    return channels, height, width


def _refuse(engine: Engine, expected: str) -> ModelError:
    found = f"{', '.join(map(str, engine.inputs))} -> {', '.join(map(str, engine.outputs))}"
    return ModelError(f"{engine.name}: expected {expected}; found {found}")


def _check_tensors(engine: Engine, card: Card) -> None:
    """Refuse an engine whose tensors are not what its card says."""
    is_tileable = bool(norm_channels(card))
    beside = [spec.name for spec in engine.inputs[1:]], [spec.name for spec in engine.outputs[1:]]
    if not engine.inputs or not engine.outputs or beside != (([*INPUTS], [FOUND]) if is_tileable else ([], [])):
        raise _refuse(engine, _EXPECTED)
    given, returned = engine.inputs[0], engine.outputs[0]
    in_channels, height, width = _image_axes(given)
    out_channels, *out_size = _image_axes(returned)
    fixed_sizes_agree = all(a is None or b is None or a == b for a, b in zip((height, width), out_size, strict=True))
    if (
        in_channels not in (1, 3)
        or out_channels not in (1, 3)
        or (given.dtype == np.uint8) != (returned.dtype == np.uint8)
        or given.shape[0] not in (None, 1)
        or not fixed_sizes_agree
    ):
        raise _refuse(engine, _EXPECTED)
    if (in_channels, out_channels) != (card.input.channels, card.output.channels):
        raise _refuse(
            engine, f"{card.input.channels} input and {card.output.channels} output channels as its card says"
        )
    if (height, width) != (card.size.height, card.size.width):
        raise _refuse(engine, f"the size of its card, {card.size.height}x{card.size.width}")


def _assumed_card(engine: Engine, assumptions: Assumptions) -> Card:
    """A card for a file without one: the research repositories' conventions, RGB in [-1, 1]."""
    if not engine.inputs or not engine.outputs:
        raise _refuse(engine, _EXPECTED)
    in_channels, height, width = _image_axes(engine.inputs[0])
    out_channels, *_ = _image_axes(engine.outputs[0])

    def spec(channels: int | None) -> ImageSpec:
        return ImageSpec(
            channels=channels or 0,
            colour="GRAY" if channels == 1 else assumptions.colour or "RGB",
            value_range=assumptions.value_range or (-1.0, 1.0),
        )

    card = Card(
        name=engine.name,
        model_type="unknown",
        direction="AtoB",
        generator=Architecture(name="unknown"),
        input=spec(in_channels),
        output=spec(out_channels),
        # Most fully convolutional generators halve the image two to five times.
        size=SizeRule(height=height, width=width, multiple_of=1 if height else 32),
    )
    _check_tensors(engine, card)
    return card
