"""The student generator: what it computes, how it begins, and how far it sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import make_card
from torch import nn
from torch.nn import functional

from i2i_runtime.card import Architecture, Card
from i2i_runtime.errors import ModelError, UsageError
from i2i_runtime.tiling import has_picture_norms, radius
from i2i_trainer.networks.build import argument_kinds, build_generator, check_size, new_generator, size_rule
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.student import GROUP, StudentGenerator, inner_channels, student_blocks

BLOCKS = ["plain", "grouped", "separable"]
FORMS = [(block, half, norm) for block in BLOCKS for half in (0, 8) for norm in ("none", "batch", "instance")]
students = st.fixed_dictionaries(
    {
        "n_blocks": st.integers(0, 12),
        "width": st.sampled_from([16, 32]),
        "half": st.sampled_from([0, 8, 16]),
        "block": st.sampled_from(BLOCKS),
        "norm": st.sampled_from(["none", "batch", "instance", "instance_affine"]),
    }
)


def student(n_blocks: int, **arguments) -> Architecture:
    return Architecture(name=f"student_{n_blocks}blocks", arguments=arguments)


def card_of(architecture: Architecture) -> Card:
    return replace(make_card(None), generator=architecture, size=size_rule(architecture))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


# the network


@pytest.mark.parametrize(("block", "half", "norm"), FORMS)
@pytest.mark.parametrize("size", [(8, 8), (12, 20)])
def test_output_has_the_size_of_its_input_and_lies_between_minus_one_and_one(block, half, norm, size):
    network = StudentGenerator(2, 2, 1, width=16, half=half, block=block, norm=norm)

    output = network(torch.randn(2, 2, *size))

    assert output.shape == (2, 1, *size)
    assert output.abs().max() <= 1


@pytest.mark.parametrize(("half", "patch"), [(0, 4), (8, 2)])
def test_the_first_layer_is_a_3x3_convolution_of_patches(half, patch):
    first = StudentGenerator(1, 3, 3, width=16, half=half).double().encoder[0]
    image = torch.randn(1, 3, 32, 24, dtype=torch.float64)
    # (out, c, 3 rows of patches, patch, 3 columns of patches, patch)
    weight = first.weight.reshape(-1, 3, 3, patch, 3, patch).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    wanted = functional.conv2d(functional.pixel_unshuffle(image, patch), weight, first.bias, padding=1)

    torch.testing.assert_close(first(image), wanted, rtol=0, atol=1e-12)


def test_the_middles_of_blocks_have_widths_of_their_own():
    network = StudentGenerator(3, width=32, inner="8_16_24")

    assert [block.branch[0].weight.shape for block in network.blocks] == [(n, 32, 3, 3) for n in (8, 16, 24)]


def test_without_blocks_ends_remain():
    assert len(convolutions(StudentGenerator(0))) == 2
    assert len(convolutions(StudentGenerator(0, half=8))) == 4


@pytest.mark.parametrize("block", ["grouped", "separable"])
def test_all_channels_of_a_block_hear_of_each_other(block):
    network = StudentGenerator(1, width=2 * GROUP, block=block).double()
    features = torch.randn(1, 2 * GROUP, 6, 6, dtype=torch.float64, requires_grad=True)

    network.blocks[0].branch(features)[0, 0].sum().backward()

    assert (features.grad[0].abs().amax((1, 2)) > 0).all()


def test_a_grouped_convolution_sees_the_channels_of_its_group():
    spatial, mixing, *_ = StudentGenerator(1, width=3 * GROUP, block="grouped").blocks[0].branch

    assert (spatial.weight.shape, spatial.groups) == ((3 * GROUP, GROUP, 3, 3), 3)
    assert mixing.weight.shape == (3 * GROUP, 3 * GROUP, 1, 1)


@pytest.mark.parametrize(("norm", "expected"), [("none", True), ("instance", True), ("batch", False)])
def test_convolutions_have_a_bias_where_no_norm_brings_one(norm, expected):
    *inner, last = convolutions(StudentGenerator(2, half=8, norm=norm))

    assert {layer.bias is not None for layer in inner} == {expected}
    assert last.bias is not None


def test_no_layer_pads_but_convolutions():
    """Reflection would be a node of its own, which copies the picture."""
    kinds = {type(module).__name__ for module in StudentGenerator(2, half=8, block="separable").modules()}

    assert not any("Pad" in kind for kind in kinds)
    assert {layer.padding_mode for layer in convolutions(StudentGenerator(2))} == {"zeros"}


# what is refused


@pytest.mark.parametrize("name", ["student_6", "student_blocks", "student_06blocks", "resnet_6blocks"])
def test_names_that_are_no_student_are_refused(name):
    with pytest.raises(UsageError, match="expected student_4blocks"):
        student_blocks(name)


@pytest.mark.parametrize("inner", ["8", "8_8_8", "8_x", "8_0", "8_"])
def test_widths_that_are_not_one_for_each_block_are_refused(inner):
    with pytest.raises(UsageError, match="expected 2 numbers joined by underscores"):
        inner_channels(2, 16, inner)


@pytest.mark.parametrize("arguments", [{"width": 24}, {"width": 32, "inner": "16_24"}])
def test_channels_that_make_no_whole_groups_are_refused(arguments):
    with pytest.raises(ModelError, match="expected multiples of 16 for grouped blocks"):
        build_generator(student(2, block="grouped", **arguments))


def test_it_takes_multiples_of_four():
    check_size(student(2), (8, 12))
    build_generator(student(2, norm="instance"))(torch.zeros(1, 3, 8, 12))
    with pytest.raises(UsageError, match="multiples of 4 from 8 on"):
        check_size(student(2), (10, 8))


def test_its_arguments_are_known():
    assert list(argument_kinds("student_2blocks")) == [
        *("input_channels", "output_channels", "width", "half", "inner", "block", "norm"),
    ]


# how it begins


@settings(max_examples=25, deadline=None)
@given(students)
def test_a_new_student_passes_signals_on_in_both_directions(arguments):
    """Outputs neither vanish nor saturate, and gradients reach the first layer at a like scale."""
    torch.manual_seed(0)
    network = new_generator(student(**arguments))
    image = torch.rand(2, 3, 32, 32) * 2 - 1

    output = network(image)
    functional.mse_loss(output, torch.randn(2, 3, 32, 32).clamp(-1, 1)).backward()

    assert 0.03 < output.std() < 0.75
    assert (output.abs() > 0.98).float().mean() < 0.05
    first, *_, last = [layer.weight.grad.norm() / layer.weight.norm() for layer in convolutions(network)]
    assert 0.01 < first / last < 100


def test_the_papers_initialisation_would_leave_nothing_of_a_separable_branch():
    """N(0, 0.02) is made for norms, and for sums of more than the nine products of a channel alone."""
    torch.manual_seed(0)
    network = build_generator(student(1, block="separable"))
    init_weights(network)

    assert network.blocks[0].branch(torch.randn(2, 32, 32, 32)).std() < 0.0001


@pytest.mark.parametrize(("half", "patch"), [(0, 4), (8, 2)])
@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
def test_the_pixels_of_a_patch_begin_equal(half, patch, norm):
    """No checkerboard."""
    torch.manual_seed(0)
    output = new_generator(student(2, half=half, norm=norm))(torch.randn(1, 3, 32, 32))

    patches = output.unfold(2, patch, patch).unfold(3, patch, patch)
    assert (patches - patches[..., :1, :1]).abs().max() < 1e-5
    assert output.std() > 0.03


@pytest.mark.parametrize("norm", ["none", "batch", "instance_affine"])
@pytest.mark.parametrize("block", BLOCKS)
def test_residual_branches_begin_small(block, norm):
    torch.manual_seed(0)
    network = new_generator(student(1, width=32, block=block, norm=norm))
    features = torch.randn(2, 32, 32, 32)

    assert 0.03 < network.blocks[0].branch(features).std() < 0.3


def test_a_new_student_learns_from_the_first_steps_on():
    torch.manual_seed(0)
    network = new_generator(student(4, width=16))
    image = torch.rand(4, 3, 32, 32) * 2 - 1
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        loss = functional.l1_loss(network(image), -image.flip(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.75 * losses[0]


# how far it sees


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 3), st.sampled_from([0, 4]), st.sampled_from(BLOCKS))
def test_a_pixel_is_seen_from_as_far_as_the_radius_and_no_further(n_blocks, half, block):
    architecture = student(n_blocks, width=16, half=half, block=block)
    reach = radius(card_of(architecture))
    network = build_generator(architecture).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().mul_(0.1)  # of positive values no ReLU hides any
    middle, side = 48, 96
    furthest = 0
    for at in range(middle, middle + 4):
        image = torch.rand(1, 3, side, 8, dtype=torch.float64, requires_grad=True)
        network(image)[0, :, at].sum().backward()
        rows = image.grad[0].abs().sum((0, 2)).nonzero().flatten()
        furthest = max(furthest, int((rows - at).abs().max()))

    assert furthest == reach


@pytest.mark.parametrize(("norm", "expected"), [(None, False), ("none", False), ("instance", True), ("batch", True)])
def test_only_a_student_with_norms_looks_at_the_whole_picture(norm, expected):
    """Batch norm does so by the statistics with which the card says that it was exported: the picture's."""
    arguments = {} if norm is None else {"norm": norm}

    assert has_picture_norms(card_of(student(2, **arguments))) == expected
