"""A look inside a generator: the same shares of the way in each, and nothing else changes."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from i2i_runtime.card import Architecture
from i2i_runtime.errors import UsageError
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.taps import Taps, evenly, of_one_size, points_of


def generator(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return build_generator(Architecture(name=name, arguments=arguments)).eval()


@torch.no_grad()
def seen_in(network: nn.Module, side: int) -> list[tuple[int, ...]]:
    """(channels, side) at each point, in the order of the points."""
    taps = Taps(points_of(network))
    with taps.looking() as seen:
        network(torch.zeros(1, 3, side, side))
    return [tuple(features.shape[1:3]) for _, features in sorted(seen.items())]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("resnet_3blocks", {"ngf": 4}, [(16, 8)] * 4),
        ("mobile_resnet_2blocks", {"ngf": 4}, [(16, 8)] * 3),
        ("student_2blocks", {"width": 8}, [(8, 8)] * 3),
        ("student_0blocks", {"width": 8}, [(8, 8)]),
        ("global", {"input_channels": 3, "ngf": 4, "n_downsampling": 3, "n_blocks": 2}, [(32, 4)] * 3),
        # The whole picture's blocks, at a coarser size, come before the enhancer's.
        ("local", {"input_channels": 3, "ngf": 4, "n_downsampling": 2, "n_blocks": 1, "n_local_blocks": 2},
         [(16, 4)] * 2 + [(4, 16)] * 2),
        ("unet_32", {"ngf": 2}, [(2, 16), (4, 8), (8, 4), (16, 2), (32, 2), (16, 4), (8, 8), (4, 16)]),
    ],
)  # fmt: skip
def test_points_follow_the_picture_through_the_network(name, arguments, expected):
    assert seen_in(generator(name, **arguments), 32) == expected


def test_a_network_of_another_kind_has_no_points():
    with pytest.raises(UsageError, match="expected a generator of residual blocks or a U-Net"):
        points_of(nn.Conv2d(3, 3, 1))


def test_features_are_what_goes_in_first_and_comes_out_of_each_block():
    network = generator("resnet_2blocks", ngf=4)
    taps, picture = Taps(points_of(network)), torch.rand(1, 3, 16, 16)

    with taps.looking() as seen:
        result = network(picture)

    torch.testing.assert_close(seen[0], network.model[:10](picture))
    torch.testing.assert_close(seen[2], network.model[:12](picture))
    torch.testing.assert_close(result, network.model[12:](seen[2]))


def test_nothing_is_kept_of_what_passes_while_nobody_looks():
    network = generator("resnet_2blocks", ngf=4)
    taps = Taps(points_of(network))

    with taps.looking() as seen:
        pass
    network(torch.rand(1, 3, 16, 16))

    assert seen == {}


def test_nobody_looks_into_a_copy():
    network = generator("resnet_2blocks", ngf=4)
    taps = Taps(points_of(network))

    with taps.looking() as seen:
        copy.deepcopy(network)(torch.rand(1, 3, 16, 16))

    assert seen == {}


@given(st.integers(1, 30), st.data())
def test_what_is_spaced_evenly_begins_at_the_first_and_ends_at_the_last(length, data):
    count = data.draw(st.integers(1, length))

    chosen = evenly(range(length), count)

    assert len(set(chosen)) == count
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    if count > 1:
        assert chosen[-1] == length - 1
        steps = [b - a for a, b in pairwise(chosen)]
        assert max(steps) - min(steps) <= 1


@given(*[st.tuples(st.integers(1, 9), st.integers(1, 9))] * 2)
def test_features_meet_at_the_smaller_height_and_width(one, other):
    first, second = torch.rand(2, 3, *one), torch.rand(2, 4, *other)

    found = of_one_size(first, second)

    size = min(one[0], other[0]), min(one[1], other[1])
    assert [tuple(x.shape) for x in found] == [(2, 3, *size), (2, 4, *size)]
    for before, after in zip((first, second), found, strict=True):
        torch.testing.assert_close(after, functional.adaptive_avg_pool2d(before, size))
