"""Metrics of image translation, in the field's names: L1, PSNR and SSIM of pairs, FID and KID of two sets of images."""

from __future__ import annotations

import warnings
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from i2i_runtime.digest import file_sha256
from i2i_runtime.errors import ModelError, UsageError, reason

METRICS: dict[str, Literal["lower", "higher"]] = {
    "L1": "lower",
    "PSNR": "higher",
    "SSIM": "higher",
    "FID": "lower",
    "KID": "lower",
    "cycle_L1": "lower",
    "L1_to_teacher": "lower",
    "PSNR_to_teacher": "higher",
    "SSIM_to_teacher": "higher",
}
"""Each metric, and which way is better."""

MAX_PSNR = 100.0
"""dB; stands for identical images, whose PSNR is infinite."""
_WINDOW = 11
"""Pixels of SSIM's Gaussian window (Wang et al. 2004): smaller images have no SSIM."""
_SUBSET = 1000
"""Images of one KID estimate at most (Binkowski et al. 2018)."""


def is_better(name: str, new: float, old: float) -> bool:
    """Whether `new` is a better value of a metric than `old`."""
    return new < old if METRICS[name] == "lower" else new > old


class PairedMetrics:
    """Means over images of how near outputs are to their targets."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def update(self, output: Tensor, target: Tensor) -> None:
        """Take in (n, c, h, w) images in [-1, 1]."""
        output, target = output.float(), target.float()
        difference = output.double() - target.double()
        l1 = difference.abs().mean((1, 2, 3))
        # Peak to peak is 2 in [-1, 1].
        psnr = 10 * torch.log10(4.0 / difference.square().mean((1, 2, 3)))
        self._add("L1", l1)
        self._add("PSNR", psnr.clamp(max=MAX_PSNR))
        if min(output.shape[-2:]) >= _WINDOW:
            ssim = structural_similarity_index_measure(output, target, data_range=2.0, reduction="none")
            assert isinstance(ssim, Tensor)
            self._add("SSIM", ssim.reshape(-1))

    def _add(self, name: str, values: Tensor) -> None:
        self._values.setdefault(name, []).extend(values.tolist())

    def compute(self) -> dict[str, float]:
        """L1 in units of [-1, 1], PSNR in dB (100 at most), SSIM (none of images under 11 pixels).

        SSIM is torchmetrics': windows that reach over the border see the image reflected there. scikit-image leaves
        those windows out, so its figures differ a little.
        """
        return {name: sum(values) / len(values) for name, values in self._values.items()}


class FeatureNetwork(nn.Module):
    """A network that turns images into features, from a TorchScript file of the user's.

    It is called with (n, 3, h, w) uint8 RGB images and returns (n, d) features; with `return_features=True`, where it
    has such an argument, as the Inception network that StyleGAN and clean-fid use. It resizes by itself.
    """

    HOW_TO_GET: ClassVar[str] = (
        "They need a TorchScript network: download inception-2015-12-05.pt (91 MB) from https://nvlabs-fi-cdn.nvidia.com"
        "/stylegan2-ada-pytorch/pretrained/metrics/ and give --features inception-2015-12-05.pt."
    )

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            ModelError: no such file, or no such network.
        """
        super().__init__()
        if not path.is_file():
            raise ModelError(f"--features {path}: no such file. {self.HOW_TO_GET}")
        try:
            with warnings.catch_warnings():
                # TorchScript is deprecated for new networks; published ones are what they are.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                network = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as error:  # torch has several of its own
            raise ModelError(f"--features {path}: expected a TorchScript network, found ({reason(error)})") from error
        self._network = network.eval()
        arguments = [argument.name for argument in network.forward.schema.arguments]
        self._extra = {"return_features": True} if "return_features" in arguments else {}
        self._path = path
        # torchmetrics asks for it by this name.
        self.num_features = self._count()
        # FID and KID compare only within one network and one way to resize.
        self.description = (
            f"{path.name} (sha256 {file_sha256(path)[:12]}), {self.num_features} features, "
            "resized by the network itself"
        )

    def _count(self) -> int:
        try:
            features = self(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
        except Exception as error:
            raise ModelError(
                f"--features {self._path}: expected a network of (n, 3, h, w) uint8 images, found ({reason(error)})"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
            found = f"a tensor of {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise ModelError(f"--features {self._path}: expected (n, d) features of n images, found {found} of 2")
        return features.shape[1]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) uint8 RGB to (n, d) features."""
        features: Tensor = self._network(images, **self._extra)
        return features


class PerceptualMetrics:
    """How far the distribution of some images is from that of others, in the eyes of a feature network."""

    def __init__(self, network: FeatureNetwork) -> None:
        self._network = network
        self._features: dict[bool, list[Tensor]] = {True: [], False: []}

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in (n, 1 or 3, h, w) images in [-1, 1]; one channel is repeated.

        Raises:
            UsageError: images of another number of channels.
        """
        if images.shape[1] not in (1, 3):
            raise UsageError(
                f"--features: expected images of 1 or 3 channels, found {images.shape[1]}; leave --features out"
            )
        grey_levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        grey_levels = grey_levels.expand(-1, 3, -1, -1).to(self._network.device)
        self._features[real].append(self._network(grey_levels.contiguous()).float().cpu())

    def compute(self) -> dict[str, float]:
        """FID (Heusel et al. 2017) and KID (Binkowski et al. 2018); nothing of fewer than two images a side."""
        if min(sum(map(len, features)) for features in self._features.values()) < 2:
            return {}
        real, fake = (torch.cat(self._features[side]).double() for side in (True, False))
        figures = {}
        with warnings.catch_warnings():
            # It warns that it will hold features in memory, which is what is wanted.
            warnings.simplefilter("ignore", UserWarning)
            subset = min(len(real), len(fake), _SUBSET)
            passed_on = _PassedOn(self._network.num_features)
            metrics = {
                "FID": FrechetInceptionDistance(passed_on),
                # Where a subset is all of both sides, each is the same: one is enough.
                "KID": KernelInceptionDistance(
                    passed_on, subsets=1 if len(real) == len(fake) == subset else 100, subset_size=subset
                ),
            }
        # KID draws its subsets: the same ones each time, and a training that measures goes on as one that does not.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            for name, metric in metrics.items():
                metric.update(real, real=True)
                metric.update(fake, real=False)
                value = metric.compute()
                figures[name] = float(value[0] if isinstance(value, tuple) else value)
        return figures


class _PassedOn(nn.Module):
    """Stands for the feature network where its features are known already: both metrics take the same."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
