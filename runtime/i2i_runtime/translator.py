"""An image in, the translated image out: `Translator("facades.onnx")(image)`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from i2i_runtime.card import Architecture, Card, ImageSpec, SizeRule
from i2i_runtime.closing import Closing
from i2i_runtime.engines.base import Device, Engine, TensorSpec
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError, UsageError
from i2i_runtime.frame import Image
from i2i_runtime.image import Fit, FitMode, image_to_tensor, plan_fit, tensor_to_image


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
        self._fit: Fit | None = None

    @property
    def is_uint8(self) -> bool:
        """Whether the graph takes and returns uint8 images itself."""
        return self._engine.inputs[0].dtype == np.uint8

    def __call__(self, image: Image) -> Image:
        """Translate one image.

        Args:
            image: (h, w, 3) uint8 BGR, any size.

        Returns:
            (h, w, 3) uint8 BGR of the same size.

        Raises:
            ModelError: the engine fails, or returns NaN or infinity.
        """
        height, width = image.shape[:2]
        if self._fit is None or self._fit.source != (height, width):
            self._fit = plan_fit(height, width, self.card.size, self._fit_mode)
        fitted = self._fit.apply(image)
        result = self._run_uint8(fitted) if self.is_uint8 else self._run_float(fitted)
        if result.shape[:2] != self._fit.model:
            (expected_height, expected_width), (found_height, found_width) = self._fit.model, result.shape[:2]
            raise ModelError(
                f"{self._engine.name}: expected a result of the input's size, {expected_width}x{expected_height}; "
                f"found {found_width}x{found_height}"
            )
        return self._fit.undo(result)

    def _assumption(self) -> str:
        if self.is_uint8:
            return "uint8 pictures, BGR"
        low, high = self.card.input.value_range
        return f"{self.card.input.colour} values from {low:g} to {high:g} (--colour, --value-range)"

    def _run_uint8(self, image: Image) -> Image:
        if self.card.input.channels == 1:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)[..., None]
        result: Image = self._engine.run(image[None])[0]
        return result if result.shape[-1] == 3 else np.repeat(result, 3, axis=-1)

    def _run_float(self, image: Image) -> Image:
        tensor = image_to_tensor(image, self.card.input)
        output = self._engine.run(tensor.astype(self._engine.inputs[0].dtype, copy=False))
        with np.errstate(invalid="ignore"):  # infinity - infinity
            total = output.sum(dtype=np.float64)
        if not np.isfinite(total):
            raise ModelError(f"{self._engine.name}: the model returned NaN or infinity")
        return tensor_to_image(output[0], self.card.output)

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
    if len(engine.inputs) != 1 or len(engine.outputs) != 1:
        raise _refuse(engine, _EXPECTED)
    (given,), (returned,) = engine.inputs, engine.outputs
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
