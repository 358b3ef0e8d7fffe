"""The generators of the reference implementations, written down layer by layer from the description of their files.

Independent of our networks on purpose: only plain torch layers, in the order in which features.md A8 lists them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    """Layers under the name `model`, as every one of these files has them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x)


NORMS = {
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "instance_affine": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "instance_2018": lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True),
    "none": lambda channels: nn.Identity(),
}


class Block(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv_block(x)


def block(width, norm, bias, dropout, padding):
    n = NORMS[norm]
    if padding == "zero":
        pad, p = [], 1
    else:
        pad, p = [nn.ReflectionPad2d(1) if padding == "reflect" else nn.ReplicationPad2d(1)], 0
    return Block(
        *pad, nn.Conv2d(width, width, 3, padding=p, bias=bias), n(width), nn.ReLU(True),
        *([nn.Dropout(0.5)] if dropout else []),
        *pad, nn.Conv2d(width, width, 3, padding=p, bias=bias), n(width),
    )  # fmt: skip


def resnet(
    blocks=9, ngf=4, norm="instance", dropout=False, channels=(3, 3), padding="reflect", blur=(0, 0), bias=None, downs=2
):
    """Of CycleGAN; with `blur` of CUT; with `bias` and other `downs` pix2pixHD's global generator."""
    n = NORMS[norm]
    bias = norm.startswith("instance") if bias is None else bias
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(channels[0], ngf, 7, bias=bias), n(ngf), nn.ReLU(True)]
    width = ngf
    for _ in range(downs):
        stride = 1 if blur[0] else 2
        layers += [nn.Conv2d(width, 2 * width, 3, stride, 1, bias=bias), n(2 * width), nn.ReLU(True)]
        width *= 2
        if blur[0]:
            layers.append(Downsample(width))
    layers += [block(width, norm, bias, dropout, padding) for _ in range(blocks)]
    for _ in range(downs):
        if blur[1]:
            layers += [Upsample(width), nn.Conv2d(width, width // 2, 3, 1, 1, bias=bias)]
        else:
            layers.append(nn.ConvTranspose2d(width, width // 2, 3, 2, 1, 1, bias=bias))
        width //= 2
        layers += [n(width), nn.ReLU(True)]
    return Network(*layers, nn.ReflectionPad2d(3), nn.Conv2d(ngf, channels[1], 7), nn.Tanh())


class Downsample(nn.Module):
    """CUT: 1 2 1 in both directions, over 16, at every second pixel."""

    def __init__(self, channels):
        super().__init__()
        filt = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        self.register_buffer("filt", filt[None, None].repeat(channels, 1, 1, 1))

    def forward(self, x):
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), "reflect"), self.filt, stride=2, groups=x.shape[1])


class Upsample(nn.Module):
    """CUT: 1 3 3 1 in both directions, over 64, times 4; cropped by one on all sides."""

    def __init__(self, channels):
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("filt", (torch.outer(line, line) / 64 * 4)[None, None].repeat(channels, 1, 1, 1))

    def forward(self, x):
        padded = functional.pad(x, (1, 1, 1, 1), "replicate")
        whole = functional.conv_transpose2d(padded, self.filt, stride=2, padding=2, groups=x.shape[1])
        return whole[:, :, 1:, 1:][:, :, :-1, :-1]


class Level(nn.Module):
    def __init__(self, *layers: nn.Module, outermost: bool = False) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.outermost = outermost

    def forward(self, x):
        # The reference's LeakyReLU works in place: x is changed by the time that it is joined. The ReLU that follows
        # makes both the same.
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class Unet(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def unet(downs=8, ngf=2, norm="batch", dropout=False, channels=(3, 3)):
    n, bias = NORMS[norm], norm.startswith("instance")

    def down(before, after):
        return nn.Conv2d(before, after, 4, 2, 1, bias=bias)

    def up(before, after):
        return nn.ConvTranspose2d(before, after, 4, 2, 1, bias=bias)

    def leaky():
        return nn.LeakyReLU(0.2, True)

    wide = 8 * ngf
    inside = Level(leaky(), down(wide, wide), nn.ReLU(True), up(wide, wide), n(wide))
    for _ in range(downs - 5):
        drop = [nn.Dropout(0.5)] if dropout else []
        inside = Level(
            leaky(), down(wide, wide), n(wide), inside, nn.ReLU(True), up(2 * wide, wide), n(wide), *drop
        )  # fmt: skip
    for outer, inner in ((4 * ngf, 8 * ngf), (2 * ngf, 4 * ngf), (ngf, 2 * ngf)):
        inside = Level(
            leaky(), down(outer, inner), n(inner), inside, nn.ReLU(True), up(2 * inner, outer), n(outer)
        )  # fmt: skip
    last = nn.ConvTranspose2d(2 * ngf, channels[1], 4, 2, 1)
    return Unet(Level(down(channels[0], ngf), inside, nn.ReLU(True), last, nn.Tanh(), outermost=True))


class Separable(nn.Module):
    def __init__(self, before, after, bias, padding, inner):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, before, 3, padding=padding, groups=before, bias=bias),
            NORMS[inner](before),
            nn.Conv2d(before, after, 1, bias=bias),
        )

    def forward(self, x):
        return self.conv(x)


def mobile_resnet(
    widths=(4, 8, 16, 8, 4),
    middles=(16,) * 9,
    norm="instance",
    separable_bias=True,
    inner="instance",
    padding="reflect",
):
    """GAN-Compression: `widths` after the first layer, two halvings and two doublings; `middles` inside the blocks."""
    n, bias = NORMS[norm], norm.startswith("instance")
    a, b, c, d, e = widths
    p = 1 if padding == "zero" else 0

    def pad():
        return [] if p else [nn.ReflectionPad2d(1)]

    blocks = [
        Block(
            *pad(), Separable(c, m, separable_bias, p, inner), n(m), nn.ReLU(True), nn.Dropout(0),
            *pad(), Separable(m, c, separable_bias, p, inner), n(c),
        )
        for m in middles
    ]  # fmt: skip
    return Network(
        nn.ReflectionPad2d(3), nn.Conv2d(3, a, 7, bias=bias), n(a), nn.ReLU(True),
        nn.Conv2d(a, b, 3, 2, 1, bias=bias), n(b), nn.ReLU(True),
        nn.Conv2d(b, c, 3, 2, 1, bias=bias), n(c), nn.ReLU(True),
        *blocks,
        nn.ConvTranspose2d(c, d, 3, 2, 1, 1, bias=bias), n(d), nn.ReLU(True),
        nn.ConvTranspose2d(d, e, 3, 2, 1, 1, bias=bias), n(e), nn.ReLU(True),
        nn.ReflectionPad2d(3), nn.Conv2d(e, 3, 7), nn.Tanh(),
    )  # fmt: skip


def global_generator(downs=4, blocks=9, ngf=2, norm="instance", channels=(36, 3)):
    """pix2pixHD: every convolution with a bias."""
    return resnet(blocks, ngf, norm, channels=channels, bias=True, downs=downs)


class Local(nn.Module):
    """pix2pixHD's local enhancers around a global generator without its last three layers."""

    def __init__(self, enhancers=1, ngf=2, downs=2, blocks=2, local_blocks=3, norm="instance", channels=(36, 3)):
        super().__init__()
        n = NORMS[norm]
        whole = global_generator(downs, blocks, ngf * 2**enhancers, norm, channels)
        self.model = whole.model[:-3]
        for number in range(1, enhancers + 1):
            width = ngf * 2 ** (enhancers - number)
            down = nn.Sequential(
                nn.ReflectionPad2d(3), nn.Conv2d(channels[0], width, 7), n(width), nn.ReLU(True),
                nn.Conv2d(width, 2 * width, 3, 2, 1), n(2 * width), nn.ReLU(True),
            )  # fmt: skip
            up = [block(2 * width, norm, True, False, "reflect") for _ in range(local_blocks)]
            up += [nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), n(width), nn.ReLU(True)]
            if number == enhancers:
                up += [nn.ReflectionPad2d(3), nn.Conv2d(width, channels[1], 7), nn.Tanh()]
            setattr(self, f"model{number}_1", down)
            setattr(self, f"model{number}_2", nn.Sequential(*up))
        self.enhancers = enhancers

    def forward(self, x):
        pyramid = [x]
        for _ in range(self.enhancers):
            pyramid.append(functional.avg_pool2d(pyramid[-1], 3, 2, 1, count_include_pad=False))
        found = self.model(pyramid[-1])
        for number in range(1, self.enhancers + 1):
            down, up = getattr(self, f"model{number}_1"), getattr(self, f"model{number}_2")
            found = up(down(pyramid[self.enhancers - number]) + found)
        return found


def discriminator():
    """pix2pix's 70x70 PatchGAN."""
    return Network(
        nn.Conv2d(6, 4, 4, 2, 1), nn.LeakyReLU(0.2, True),
        nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, True),
        nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2, True),
        nn.Conv2d(16, 32, 4, 1, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2, True),
        nn.Conv2d(32, 1, 4, 1, 1),
    )  # fmt: skip


@torch.no_grad()
def as_if_trained(network: nn.Module) -> nn.Module:
    """Weights that show a mistake: scales, shifts and averages of norms that differ from those of a new network."""
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith("running_mean") or (tensor.dim() == 1 and name.endswith("bias")):
            tensor.normal_(0, 0.3)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.normal_(1, 0.3)
        elif name.endswith("filt"):
            tensor.mul_(1 + 0.1 * torch.rand_like(tensor))  # that it comes from the file, not from a formula
    return network


def as_upstream_tests(network: nn.Module) -> nn.Module:
    """In training mode, as the reference implementations translate, without the randomness of dropout.

    Except instance norms of 2018: today's torch would update their averages, which change nothing.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return network
