"""A label map in, a picture out: for models that were trained on label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from i2i_runtime.closing import Closing
from i2i_runtime.engines.base import Device, Engine, Tensor
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import BadOutputError, ModelError, SourceError, UsageError
from i2i_runtime.frame import Image, LabelMap
from i2i_runtime.image import plan_fit, tensor_to_image


class LabelTranslator(Closing):
    """Runs an engine whose card has labels.

    >>> translator = LabelTranslator("street.onnx", style=2)  # doctest: +SKIP
    >>> translator(np.dstack((labels, instances))).shape  # doctest: +SKIP
    (1024, 2048, 3)

    Attributes:
        card: what the model expects and returns.
        provider: what really runs it.
        style: which look the next picture gets, from 0; may be set while it runs.
        styles: how many there are to choose from; 0 where there is no choice.
    """

    assumed = None

    def __init__(
        self,
        engine: str | Path | Engine,
        *,
        style: int | None = None,
        device: Device = "auto",
        threads: int | None = None,
    ) -> None:
        """Load the engine.

        Args:
            engine: a model file, or an engine that is open already.
            style: which of the model's looks; None is the first, or the one that was built in.
            device: where to run it.
            threads: CPU threads for one inference; None leaves the choice to the engine.

        Raises:
            ModelError: not a model of label maps.
            DeviceError: the device is not there.
            UsageError: a style that the model does not have, or that was chosen when it was exported.
        """
        self._engine = engine if isinstance(engine, Engine) else open_engine(engine, device, threads)
        name, card = self._engine.name, self._engine.card
        if card is None or card.labels is None:
            raise ModelError(f"{name}: expected a model of label maps, found one of pictures")
        self.card, self.labels, self.provider = card, card.labels, self._engine.provider
        wanted = {"labels", *(["instances"] if card.labels.instance_edges else [])}
        has_choice = bool(card.labels.styles) and (card.export is None or card.export.style is None)
        if has_choice:
            wanted.add("style")
        found = {spec.name for spec in self._engine.inputs}
        if found != wanted:
            raise ModelError(f"{name}: expected inputs {sorted(wanted)}, found {sorted(found)}")
        built_in = card.export.style if card.export else None
        if style not in (None, built_in) and not has_choice:
            raise UsageError(f"--style {style}: {name} has one style only; choose when exporting, or leave it out")
        if has_choice and not 0 <= (style or 0) < card.labels.styles:
            raise UsageError(f"--style {style}: {name} has styles 0 to {card.labels.styles - 1}")
        self.style = style or 0
        self.styles = card.labels.styles if has_choice else 0

    @property
    def has_instances(self) -> bool:
        """Whether it takes instance ids beside class ids."""
        return self.labels.instance_edges

    def __call__(self, maps: LabelMap) -> Image:
        """Translate one label map.

        Args:
            maps: (h, w, 1) int32 class ids, or (h, w, 2) with instance ids where the model takes them; any size.

        Returns:
            (h, w, 3) uint8 BGR of the same size.

        Raises:
            SourceError: no such map, or an id that is no class.
            ModelError: the engine fails, or returns NaN or infinity.
        """
        expected = 1 + int(self.has_instances)
        if maps.ndim != 3 or maps.shape[2] != expected:
            raise SourceError(f"{self._engine.name}: expected (h, w, {expected}) ids, found {maps.shape}")
        highest = int(maps[:, :, 0].max())
        if highest >= self.labels.count:
            raise SourceError(
                f"{self._engine.name}: expected label ids 0 to {self.labels.count - 1}, found {highest}; "
                "was it trained on other classes?"
            )
        fit = plan_fit(maps.shape[0], maps.shape[1], self.card.size, "stretch")
        fitted = fit.apply_to_ids(maps)
        named: dict[str, Tensor] = {
            name: np.ascontiguousarray(fitted[None, None, :, :, i], np.int32)
            for i, name in enumerate(("labels", "instances")[:expected])
        }
        named["style"] = np.array([self.style], np.int64)
        output = self._engine.run(*(named[spec.name] for spec in self._engine.inputs))
        if not np.isfinite(output).all():
            raise BadOutputError(f"{self._engine.name}: the model returned NaN or infinity")
        return fit.undo(tensor_to_image(output[0], self.card.output))

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
