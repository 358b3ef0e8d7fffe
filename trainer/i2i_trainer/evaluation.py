"""How good generators are on held-out pictures: which metrics a kind of data has, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from i2i_trainer.data.batches import stack
from i2i_trainer.data.dataset import DataKind
from i2i_trainer.data.transforms import Sample
from i2i_trainer.metrics import FeatureNetwork, PairedMetrics, PerceptualMetrics

Translate = Callable[[Sample], Tensor]
"""A batch of inputs (`input`, and `instances` of label maps) to images (n, c, h, w) in [-1, 1]."""
TO_TEACHER = "_to_teacher"
"""Ends the names of metrics whose targets are a teacher's outputs."""


@dataclass(frozen=True, kw_only=True)
class Directions:
    """The functions to evaluate."""

    there: Translate
    """From input to target."""
    back: Translate | None = None
    """From target to input, where the model has learnt it."""


def evaluate(
    directions: Directions, kind: DataKind, samples: Iterable[Sample], features: FeatureNetwork | None = None
) -> tuple[dict[str, float], int]:
    """Measure on every sample.

    Args:
        directions: the functions.
        kind: whether outputs have targets of their own.
        samples: of unpaired data, `input` or `target` may be missing where one domain has fewer pictures.
        features: for FID and KID.

    Returns:
        The figures, and how many inputs were translated. Of pairs `L1` (units of [-1, 1]), `PSNR` (dB) and `SSIM`; with
        a feature network `FID` and `KID` of the outputs against the targets; where there is a way back `cycle_L1`, the
        mean absolute error of an input that was translated there and back.
    """
    paired = PairedMetrics() if kind == "paired" else None
    perceptual = PerceptualMetrics(features) if features is not None else None
    cycles: list[float] = []
    count = 0
    for sample in samples:
        batch = stack([sample])
        if perceptual is not None and "target" in batch:
            perceptual.update(batch["target"], real=True)
        if "input" not in batch:
            continue
        count += 1
        output = directions.there(batch).float().cpu()
        if paired is not None:
            paired.update(output, batch["target"])
        if perceptual is not None:
            perceptual.update(output, real=False)
        if directions.back is not None:
            again = directions.back({"input": output}).float().cpu()
            cycles.append((again - batch["input"]).abs().mean().item())
    figures = paired.compute() if paired is not None else {}
    if perceptual is not None:
        figures |= perceptual.compute()
    if cycles:
        figures["cycle_L1"] = sum(cycles) / len(cycles)
    return figures, count


def imitated(teacher: Translate, samples: Iterable[Sample]) -> Iterator[Sample]:
    """Samples whose targets are what a teacher makes of their inputs; those without an input are left out."""
    for sample in samples:
        if "input" in sample:
            yield {**sample, "target": teacher(stack([sample]))[0].float().cpu()}


def metric_names(kind: DataKind, *, both_ways: bool, has_features: bool) -> list[str]:
    """What `evaluate` measures in a training: the one that picks the best by default comes first."""
    paired = ["L1", "PSNR", "SSIM"] if kind == "paired" else []
    return paired + (["FID", "KID"] if has_features else []) + (["cycle_L1"] if both_ways else [])


def translate_with(generator: torch.nn.Module, device: torch.device, style: int = 0) -> Translate:
    """A generator in the form in which it is used (see `networks.inference.as_used`), on `device`."""
    chosen = {"style": torch.tensor([style], device=device)} if style else {}

    @torch.no_grad()
    def translate(batch: Sample) -> Tensor:
        result: Tensor = generator(*inputs_of(batch, device), **chosen)
        return result

    return translate


def inputs_of(batch: Sample, device: torch.device) -> list[Tensor]:
    """The generator's arguments: the picture, or label map and instance map."""
    given = [batch[name].to(device) for name in ("input", "instances") if name in batch]
    return [tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor for tensor in given]
