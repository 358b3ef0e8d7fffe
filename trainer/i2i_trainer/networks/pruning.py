"""First weights for a student from its teacher: pruned channels, folded norms, ends that are fitted.

Where both have residual blocks at a quarter of the size, the student begins as the part of its teacher that matters
most: evenly spaced blocks (a deeper student has others between them, which do nothing at first), and of these those
channels whose filters have the largest sum of absolute weights (Li et al. 2017, "Pruning Filters for Efficient
ConvNets", section 3.1). A student without norms cannot look at the mean and variance of each picture, as its
teacher does: each convolution gets the scale and shift that give its outputs, over some pictures, the moments that the
teacher's have behind their norm. Its first and last convolutions have no counterpart in the teacher. They are fitted to
what should come out of them by least squares (as He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural
Networks", section 3.2, fit what is left of a layer), the last one whatever the teacher is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_trainer.networks.layers import ResidualBlock
from i2i_trainer.networks.pix2pixhd import GlobalGenerator
from i2i_trainer.networks.resnet import ResnetGenerator
from i2i_trainer.networks.student import StudentGenerator
from i2i_trainer.networks.taps import Point, Taps, evenly

_MOST_INPUTS = 2048
"""Weights of one output of a convolution that is fitted: the time grows with their third power."""
_RIDGE = 1e-3
"""Of the mean square of a convolution's inputs: keeps fitted weights small where pictures say nothing about them."""
_ROWS = 16
"""Rows of outputs that are looked at at once, for the sake of memory."""
_SILENT = 1e-3
"""Of the middle deviation of a convolution's outputs: what varies less does not vary."""
_WHITE = 0.97
"""Where the teacher's tanh is taken as saturated."""


@torch.no_grad()
def start_from_teacher(student: nn.Module, teacher: nn.Module, pictures: Iterable[Tensor]) -> None:
    """Bring a student as near to its teacher as can be without training; a generator of another kind stays as it is.

    Args:
        student: changed in place, and brought to the device of the pictures.
        teacher: in its form of use, on the device of the pictures.
        pictures: what both take, (n, c, h, w) each, of one size.
    """
    if not isinstance(student, StudentGenerator):
        return
    pairs = _alike(student, teacher)
    taps = Taps([point for _, teachers in pairs for point in teachers.points])
    kept = torch.empty(0, dtype=torch.long)
    if pairs:
        kept = _most_important([teachers.second for _, teachers in pairs], pairs[0][0].first.in_channels)
    shown: list[Tensor] = []
    outputs: list[Tensor] = []
    records = [_Record() for _ in pairs]
    for picture in pictures:
        student.to(picture.device)
        with taps.looking() as seen:
            outputs.append(teacher(picture))
        shown.append(picture)
        for number, record in enumerate(records):
            given, first, second = (seen[3 * number + which] for which in range(3))
            record.given.append(given[:, kept])
            record.first.append(_moments(first))
            record.second.append(_moments(second))
    if not shown:
        return
    if pairs and records[0].given[0].shape[-2:] == student.encoder(shown[0]).shape[-2:]:
        begins = zip(map(student.encoder[:-3], shown), records[0].given, strict=True)
        if _fit(_last_convolution(student.encoder), begins):
            for block in map(_block, student.blocks):
                assert block is not None
                block.second.weight.zero_()  # those that the teacher has none for do nothing at first
            for (its, teachers), record in zip(pairs, records, strict=True):
                _prune(its, teachers, kept, record)
    # What the teacher has before its tanh, each pixel of a patch in a channel of its own.
    shuffle = student.decoder[-2]
    assert isinstance(shuffle, nn.PixelShuffle)
    before_tanh = (output.clamp(-_WHITE, _WHITE).atanh() for output in outputs)
    wanted_patches = (functional.pixel_unshuffle(image, shuffle.upscale_factor) for image in before_tanh)
    features = (student.decoder[:-3](student.blocks(student.encoder(picture))) for picture in shown)
    _fit(_last_convolution(student.decoder), zip(features, wanted_patches, strict=True))


@dataclass(frozen=True)
class _Record:
    """What went through a block of the teacher, picture by picture."""

    given: list[Tensor] = field(default_factory=list)
    """In the channels that are kept."""
    first: list[Tensor] = field(default_factory=list)
    """Moments behind the first norm, and `second` behind the second, of all channels."""
    second: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class _Block:
    """A residual block of two plain convolutions, each with its norm (or what stands for none) behind it."""

    module: nn.Module
    first: nn.Conv2d
    second: nn.Conv2d
    norms: tuple[nn.Module, nn.Module]

    @property
    def points(self) -> list[Point]:
        return [Point(self.module, is_input=True), *map(Point, self.norms)]


def _block(module: nn.Module) -> _Block | None:
    """None of a block with other convolutions."""
    layers = list(module.get_submodule("branch" if hasattr(module, "branch") else "conv_block").children())
    convolutions = [(layer, norm) for layer, norm in pairwise(layers) if isinstance(layer, nn.Conv2d)]
    if len(convolutions) != 2 or any(layer.groups > 1 for layer, _ in convolutions):
        return None
    (first, first_norm), (second, second_norm) = convolutions
    return _Block(module, first, second, (first_norm, second_norm))


def _alike(student: StudentGenerator, teacher: nn.Module) -> list[tuple[_Block, _Block]]:
    """Blocks of the student, each with the one that it begins as; empty where one of them cannot."""
    if not isinstance(teacher, ResnetGenerator | GlobalGenerator):
        return []
    its = [_block(block) for block in student.blocks]
    all_teachers = [_block(block) for block in teacher.model if isinstance(block, ResidualBlock)]
    count = min(len(its), len(all_teachers))
    pairs = []
    for mine, theirs in zip(evenly(its, count), evenly(all_teachers, count), strict=True):
        if mine is None or theirs is None or not isinstance(mine.norms[0], nn.Identity):
            return []
        if max(mine.first.in_channels, mine.first.out_channels) > theirs.first.in_channels:
            return []
        pairs.append((mine, theirs))
    return pairs


def _most_important(convolutions: Sequence[nn.Conv2d], count: int) -> Tensor:
    """Which `count` of the channels that convolutions write to have the largest filters, in their order."""
    importance = torch.stack([layer.weight.abs().sum((1, 2, 3)) for layer in convolutions]).sum(0)
    return importance.topk(count).indices.sort().values


def _prune(student: _Block, teacher: _Block, kept: Tensor, record: _Record) -> None:
    """Take over the main part of a block."""
    middle = _most_important([teacher.first], student.first.out_channels)
    student.first.weight.copy_(teacher.first.weight[middle][:, kept])
    student.second.weight.copy_(teacher.second.weight[kept][:, middle])
    first, second = (torch.stack(moments).mean(0) for moments in (record.first, record.second))
    _match_moments(student.first, record.given, first[:, middle])
    _match_moments(student.second, [student.first(x).relu() for x in record.given], second[:, kept])


def _moments(features: Tensor) -> Tensor:
    """(n, c, h, w) to (2, c): the mean, and the mean square."""
    return torch.stack([features.mean((0, 2, 3)), features.square().mean((0, 2, 3))])


def _match_moments(convolution: nn.Conv2d, given: Sequence[Tensor], wanted: Tensor) -> None:
    """Scale and shift a convolution so that its outputs have the moments (2, c) that are wanted."""
    assert convolution.bias is not None
    convolution.bias.zero_()
    found = torch.stack([_moments(convolution(x)) for x in given]).mean(0)
    wanted_deviation, found_deviation = ((square - mean**2).clamp(min=0).sqrt() for mean, square in (wanted, found))
    # What is silent on these pictures would be made deafening for others.
    is_silent = found_deviation <= _SILENT * found_deviation.median()
    scale = torch.where(is_silent, 1.0, wanted_deviation / found_deviation)
    convolution.weight.mul_(scale[:, None, None, None])
    convolution.bias.copy_(wanted[0] - found[0] * scale)


def _last_convolution(sequence: nn.Sequential) -> nn.Conv2d:
    """That of a sequence which ends with it and two more layers."""
    convolution = sequence[-3]
    assert isinstance(convolution, nn.Conv2d)
    return convolution


def _fit(convolution: nn.Conv2d, pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Give a convolution the weights with which it turns inputs into the outputs that are wanted, by least squares.

    Args:
        convolution: with zeros around its inputs.
        pairs: inputs (n, c, h, w) and outputs (n, d, h', w').

    Returns:
        Whether it was: not where it has too many inputs.
    """
    assert convolution.bias is not None
    count = convolution.weight[0].numel()
    if count > _MOST_INPUTS:
        return False
    side, stride = convolution.kernel_size[0], convolution.stride[0]
    assert isinstance(convolution.padding, tuple)
    border = convolution.padding[0]
    squares = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    products = torch.zeros(count + 1, convolution.out_channels, dtype=torch.float64)
    for given, wanted in pairs:
        padded = functional.pad(given, (border, border, border, border))
        for top in range(0, wanted.shape[-2], _ROWS):
            outputs = wanted[:, :, top : top + _ROWS].movedim(1, 0).flatten(1).cpu().double()
            last = min(top + _ROWS, wanted.shape[-2]) - 1
            rows = padded[:, :, top * stride : last * stride + side]
            inputs = functional.unfold(rows, side, stride=stride).movedim(1, 0).flatten(1).cpu().double()
            inputs = torch.cat([inputs, torch.ones_like(inputs[:1])])  # for the bias
            squares += inputs @ inputs.T
            products += inputs @ outputs.T
    # The bias costs nothing.
    weights = squares.diagonal()[:-1]
    weights += _RIDGE * weights.mean()
    solution = torch.linalg.solve(squares, products)
    convolution.weight.copy_(solution[:-1].T.reshape(convolution.weight.shape))
    convolution.bias.copy_(solution[-1])
    return True
