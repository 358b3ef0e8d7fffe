"""PatchGAN discriminators (Isola et al. 2017, section 3.2.2 and appendix 6.1.2; several scales: pix2pixHD 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from i2i_runtime.errors import UsageError
from i2i_trainer.config import Size
from i2i_trainer.networks.layers import NormName, convs_have_bias, half_size, norm_layer


def check_patches(size: Size, n_layers: int) -> None:
    """Refuse a PatchGAN that is too deep for its images.

    Raises:
        UsageError: nothing would be left to judge.
    """
    if min(size) // 2**n_layers < 3:
        raise UsageError(
            f"--n-layers {n_layers}: images of {size[0]}x{size[1]} leave the PatchGAN nothing to judge; "
            "use fewer layers or a larger --size"
        )


def check_scales(size: Size, num_D: int) -> None:  # noqa: N803
    """Refuse more scales than an image has room for.

    Raises:
        UsageError: the last discriminator would see next to nothing.
    """
    smallest = min(size) // 2 ** (num_D - 1)
    if smallest < 4:
        raise UsageError(
            f"--num-d {num_D}: the last discriminator would see {smallest} of {min(size)} pixels, expected 4 at least; "
            "use fewer or a larger --size"
        )


def _layers(
    input_channels: int, ndf: int, n_layers: int, norm: NormName, *, padding: int, bias: bool
) -> list[list[nn.Module]]:
    """`n_layers` convolutions with stride 2, one more without, and the one that gives a logit a patch."""
    layers: list[list[nn.Module]] = [[nn.Conv2d(input_channels, ndf, 4, 2, padding), nn.LeakyReLU(0.2)]]
    channels = ndf
    for layer in range(1, n_layers + 1):
        before, channels = channels, ndf * min(2**layer, 8)
        stride = 2 if layer < n_layers else 1
        layers.append(
            [
                nn.Conv2d(before, channels, 4, stride, padding, bias=bias),
                norm_layer(norm, channels),
                nn.LeakyReLU(0.2),
            ]
        )
    return [*layers, [nn.Conv2d(channels, 1, 4, 1, padding)]]


class PatchGAN(nn.Module):
    """Judges overlapping patches of an image; with three layers each patch is 70x70 pixels.

    State-dict keys are those of the PyTorch reference implementation.
    """

    def __init__(self, input_channels: int, ndf: int = 64, n_layers: int = 3, norm: NormName = "batch") -> None:
        """Build it.

        Args:
            input_channels: channels it sees; a conditional one sees input and output together.
            ndf: features of the first layer; doubled per layer up to 8 times.
            n_layers: convolutions with stride 2.
            norm: normalisation layers.
        """
        super().__init__()
        self.input_channels = input_channels
        layers = _layers(input_channels, ndf, n_layers, norm, padding=1, bias=convs_have_bias(norm))
        self.model = nn.Sequential(*(module for layer in layers for module in layer))

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, h, w) to one logit a patch, (n, 1, h', w')."""
        return self.model(image)  # type: ignore[no-any-return]


class MultiscalePatchGAN(nn.Module):
    """Several PatchGANs, each of which sees the image at half the size of the one before.

    State-dict keys are those of the PyTorch reference implementation, which counts scales from the smallest image.
    """

    def __init__(
        self,
        input_channels: int,
        ndf: int = 64,
        n_layers: int = 3,
        num_D: int = 3,  # noqa: N803
        norm: NormName = "instance",
    ) -> None:
        """Build it.

        Args:
            input_channels: channels it sees: input and output together.
            ndf: features of the first layer; doubled per layer up to 8 times.
            n_layers: convolutions with stride 2 of each discriminator.
            num_D: number of discriminators.
            norm: normalisation layers.
        """
        super().__init__()
        self.input_channels = input_channels
        self._n_layers, self._num_D = n_layers, num_D
        for scale in range(num_D):
            for number, layer in enumerate(_layers(input_channels, ndf, n_layers, norm, padding=2, bias=True)):
                self.add_module(f"scale{scale}_layer{number}", nn.Sequential(*layer))
        self._halve = half_size()

    def forward(self, image: Tensor) -> list[list[Tensor]]:
        """(n, c, h, w) to the features of every layer at every scale, full size first; the last are the logits."""
        scales = []
        for scale in reversed(range(self._num_D)):
            features = [image]
            for layer in range(self._n_layers + 2):
                features.append(self.get_submodule(f"scale{scale}_layer{layer}")(features[-1]))
            scales.append(features[1:])
            image = self._halve(image)
        return scales


def patchgan_of(weights: Mapping[str, Tensor], size: Size) -> PatchGAN | MultiscalePatchGAN | None:
    """The discriminator whose state dict this is, one of the two above, with fresh weights; None of another network's.

    Args:
        weights: what keys and shapes are read from.
        size: (height, width) of the images that it is to judge.

    Raises:
        UsageError: such images leave it nothing to judge.
    """
    if not weights.keys() & {"model.0.weight", "scale0_layer0.0.weight"}:
        return None
    convolutions = [weight for weight in weights.values() if weight.dim() == 4]
    norm: NormName = "batch" if any(key.endswith(".running_mean") for key in weights) else "instance"
    ndf, input_channels = convolutions[0].shape[:2]
    scales = len({key.partition("_")[0] for key in weights if key.startswith("scale")})
    # What is not strided: the last layer but one, and the last.
    n_layers = len(convolutions) // max(1, scales) - 2
    if not scales:
        check_patches(size, n_layers)
        return PatchGAN(input_channels, ndf, n_layers, norm)
    check_scales(size, scales)
    return MultiscalePatchGAN(input_channels, ndf, n_layers, scales, norm)
