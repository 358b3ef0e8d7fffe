"""The PatchGAN discriminator (Isola et al. 2017, section 3.2.2 and appendix 6.1.2)."""

from __future__ import annotations

from torch import Tensor, nn

from i2i_trainer.networks.layers import NormName, convs_have_bias, norm_layer


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
        bias = convs_have_bias(norm)
        layers: list[nn.Module] = [nn.Conv2d(input_channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = ndf
        for layer in range(1, n_layers + 1):
            before, channels = channels, ndf * min(2**layer, 8)
            stride = 2 if layer < n_layers else 1
            layers += [
                nn.Conv2d(before, channels, 4, stride, 1, bias=bias),
                norm_layer(norm, channels),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(channels, 1, 4, 1, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, h, w) to one logit a patch, (n, 1, h', w')."""
        return self.model(image)  # type: ignore[no-any-return]
