"""First weights of a student: what is taken over from the teacher is the teacher's, and what is fitted fits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from i2i_runtime.card import Architecture
from i2i_trainer.networks.build import build_generator, new_generator
from i2i_trainer.networks.inference import for_inference
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.pruning import _fit, start_from_teacher


def generator(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return new_generator(Architecture(name=name, arguments=arguments))


def a_teacher(name: str = "resnet_2blocks", **arguments) -> nn.Module:
    """In its form of use, with weights that do something."""
    torch.manual_seed(0)
    network = build_generator(Architecture(name=name, arguments={"ngf": 4, **arguments}))
    init_weights(network, gain=0.1)
    return for_inference(network, "image")


def pictures(count: int, side: int = 64) -> list[torch.Tensor]:
    """Smooth ones of different brightness: so that instance norms differ from picture to picture."""
    random = torch.Generator().manual_seed(2)
    return [
        functional.interpolate(torch.rand(1, 3, 8, 8, generator=random) * 2 - 1, (side, side), mode="bicubic")
        for _ in range(count)
    ]


@torch.no_grad()
def streams(teacher: nn.Module, picture: torch.Tensor) -> list[torch.Tensor]:
    """What each of a teacher's blocks is given, and at last what comes out of them."""
    first = next(number for number, layer in enumerate(teacher.model) if hasattr(layer, "conv_block"))
    seen = [teacher.model[:first](picture)]
    for block in teacher.model[first:]:
        if hasattr(block, "conv_block"):
            seen.append(block(seen[-1]))
    return seen


@torch.no_grad()
def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of two results, as a share of what the second one varies by."""
    return ((one - other).square().mean().sqrt() / other.std()).item()


@pytest.mark.parametrize("arguments", [{}, {"norm": "instance_affine"}, {"norm": "batch"}, {"norm": "none"}])
def test_a_block_of_equal_width_does_on_the_matched_picture_what_the_teachers_does(arguments):
    teacher, student = a_teacher(padding="zero", **arguments), generator("student_2blocks", width=16)
    (picture,) = pictures(1)

    start_from_teacher(student, teacher, [picture])

    before, *after = streams(teacher, picture)
    for block, wanted in zip(student.blocks, after, strict=True):
        torch.testing.assert_close(block(before), wanted, rtol=1e-3, atol=1e-3)
        before = wanted


def test_borders_of_zeros_in_place_of_reflected_ones_show_at_the_border_only():
    teacher, student = a_teacher(), generator("student_2blocks", width=16)
    (picture,) = pictures(1, side=256)

    start_from_teacher(student, teacher, [picture])

    before, *after = streams(teacher, picture)
    for block, wanted in zip(student.blocks, after, strict=True):
        assert distance(block(before)[..., 2:-2, 2:-2], wanted[..., 2:-2, 2:-2]) < 0.1
        before = wanted


@torch.no_grad()
def test_a_channel_that_is_silent_on_the_pictures_does_not_become_a_loud_one():
    teacher = a_teacher("resnet_1blocks", norm="instance_affine", padding="zero")
    first, first_norm, *_ = teacher.model[10].conv_block
    first.weight[3] *= 10  # it is the most important one,
    first_norm.bias[3] = -20.0  # and never gets through the ReLU
    student = generator("student_1blocks", width=8, inner="1")

    start_from_teacher(student, teacher, pictures(4))

    assert max(weight.abs().max() for weight in student.blocks.parameters()) < 100


def test_over_several_pictures_it_does_about_what_the_teachers_does():
    teacher, student = a_teacher(padding="zero"), generator("student_2blocks", width=16)
    some = pictures(6)

    start_from_teacher(student, teacher, some)

    for picture in some:
        before, *after = streams(teacher, picture)
        for block, wanted in zip(student.blocks, after, strict=True):
            assert distance(block(before), wanted) < 0.5 < distance(before, wanted)
            before = wanted


def test_of_a_deeper_teacher_evenly_spaced_blocks_are_taken():
    teacher, student = a_teacher("resnet_5blocks", padding="zero"), generator("student_3blocks", width=16)
    (picture,) = pictures(1)

    start_from_teacher(student, teacher, [picture])

    seen = streams(teacher, picture)
    for block, number in zip(student.blocks, (0, 2, 4), strict=True):
        torch.testing.assert_close(block(seen[number]), seen[number + 1], rtol=1e-3, atol=1e-3)


def test_blocks_of_a_deeper_student_that_the_teacher_has_none_for_do_nothing():
    teacher, student = a_teacher("resnet_3blocks", padding="zero"), generator("student_5blocks", width=16)
    (picture,) = pictures(1)

    start_from_teacher(student, teacher, [picture])

    seen = streams(teacher, picture)
    for block, before, after in zip(student.blocks, (0, 1, 1, 2, 2), (1, 1, 2, 2, 3), strict=True):
        torch.testing.assert_close(block(seen[before]), seen[after], rtol=1e-3, atol=1e-3)


def test_the_channels_with_the_largest_filters_are_kept():
    teacher, student = a_teacher("resnet_1blocks"), generator("student_1blocks", width=4, inner="3")
    stream, middle = [1, 6, 7, 12], [0, 5, 15]
    first, second = (layer for layer in teacher.model[10].conv_block if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        first.weight[middle] *= 10
        second.weight[stream] *= 10

    start_from_teacher(student, teacher, pictures(2))

    its_first, its_second = (layer for layer in student.blocks[0].branch if isinstance(layer, nn.Conv2d))
    for found, whole in ((its_first.weight, first.weight[middle][:, stream]),
                         (its_second.weight, second.weight[stream][:, middle])):  # fmt: skip
        scale = found / whole
        # Each filter is the teacher's, but for one factor that stands for its norm.
        torch.testing.assert_close(scale, scale[:, :1, :1, :1].expand_as(scale), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        (("resnet_2blocks", {}), {}),
        (("resnet_2blocks", {}), {"half": 4}),
        (("resnet_2blocks", {}), {"block": "separable"}),
        (("unet_32", {}), {}),
        (("global", {"n_downsampling": 2, "n_blocks": 2, "input_channels": 3}), {}),
        (("global", {"n_downsampling": 3, "n_blocks": 2, "input_channels": 3}), {}),
        (("mobile_resnet_2blocks", {}), {}),
    ],
)
def test_a_student_begins_nearer_to_any_teacher_than_a_fresh_one(teacher, student):
    name, arguments = teacher
    teacher = a_teacher(name, **arguments)
    fresh, begun = (generator("student_2blocks", width=8, **student) for _ in range(2))
    *some, another = pictures(7)

    start_from_teacher(begun, teacher, some)

    with torch.no_grad():
        wanted = teacher(another)
        assert distance(begun(another), wanted) < 0.8 * distance(fresh(another), wanted)


@pytest.mark.parametrize("student", [("resnet_2blocks", {"ngf": 4}), ("unet_32", {"ngf": 2})])
def test_a_generator_of_another_kind_stays_as_it_is(student):
    name, arguments = student
    network = generator(name, **arguments)
    before = {key: weight.clone() for key, weight in network.state_dict().items()}

    start_from_teacher(network, a_teacher(), pictures(1))

    assert all(torch.equal(weight, before[key]) for key, weight in network.state_dict().items())


def test_the_teacher_stays_as_it_is():
    teacher = a_teacher()
    before = {key: weight.clone() for key, weight in teacher.state_dict().items()}

    start_from_teacher(generator("student_2blocks", width=8), teacher, pictures(2))

    assert all(torch.equal(weight, before[key]) for key, weight in teacher.state_dict().items())


@settings(max_examples=15, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    layout=st.sampled_from([(3, 1, 1), (12, 4, 4), (6, 2, 2), (1, 1, 0)]),
    rows=st.integers(5, 40),
    scale=st.sampled_from([0.1, 1, 30]),
)
def test_a_convolution_that_is_fitted_to_another_ones_outputs_becomes_that_one(channels, layout, rows, scale):
    torch.manual_seed(0)
    side, stride, padding = layout
    before, after = channels
    wanted, fitted = (nn.Conv2d(before, after, side, stride, padding) for _ in range(2))
    inputs = [torch.randn(2, before, rows * stride, 30 * stride) * scale for _ in range(3)]

    with torch.no_grad():
        wanted.weight.div_(scale)
        assert _fit(fitted, [(x, wanted(x)) for x in inputs])

    # But for the ridge, which makes weights a thousandth smaller.
    torch.testing.assert_close(fitted.weight, wanted.weight, rtol=0.02, atol=0.01 / scale)
    torch.testing.assert_close(fitted.bias, wanted.bias, rtol=0.02, atol=0.01)


def test_a_convolution_with_too_many_inputs_stays_as_it_is():
    convolution = nn.Conv2d(36, 4, 12, 4, 4)
    before = convolution.weight.clone()

    assert not _fit(convolution, [])
    assert torch.equal(convolution.weight, before)
