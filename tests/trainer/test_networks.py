"""Networks against the figures and key layouts that their authors published."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from i2i_runtime.card import Architecture
from i2i_runtime.errors import UsageError
from i2i_trainer.networks.build import build_generator, check_size, new_generator, size_rule
from i2i_trainer.networks.inference import for_inference
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.patchgan import PatchGAN
from i2i_trainer.networks.resnet import ResnetGenerator, resnet_blocks
from i2i_trainer.networks.unet import UnetGenerator, unet_downs, unet_for

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def parameters_m(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def published_unet_keys(downs: int, norm_keys: tuple[str, ...], conv_keys: tuple[str, ...]) -> set[str]:
    """The layout of the PyTorch reference implementation, written down from its description."""
    keys = {f"model.model.0.{k}" for k in conv_keys} | {"model.model.3.weight", "model.model.3.bias"}
    for depth in range(downs - 2):
        level = "model.model.1" + ".model.3" * depth
        keys |= {f"{level}.model.{conv}.{k}" for conv in (1, 5) for k in conv_keys}
        keys |= {f"{level}.model.{norm}.{k}" for norm in (2, 6) for k in norm_keys}
    innermost = "model.model.1" + ".model.3" * (downs - 2)
    keys |= {f"{innermost}.model.{conv}.{k}" for conv in (1, 3) for k in conv_keys}
    keys |= {f"{innermost}.model.4.{k}" for k in norm_keys}
    return keys


def test_unet_256_has_the_published_number_of_parameters():
    assert parameters_m(UnetGenerator(8)) == pytest.approx(54.414, abs=5e-4)


def test_the_conditional_patchgan_has_the_published_number_of_parameters():
    assert parameters_m(PatchGAN(6)) == pytest.approx(2.769, abs=5e-4)


def test_the_unconditional_patchgan_has_the_published_number_of_parameters():
    assert parameters_m(PatchGAN(3, norm="instance")) == pytest.approx(2.765, abs=5e-4)


def test_resnet_with_nine_blocks_has_the_published_number_of_parameters():
    assert parameters_m(ResnetGenerator(9)) == pytest.approx(11.378, abs=5e-4)


def published_resnet_keys(n_blocks: int, norm: str, *, dropout: bool) -> set[str]:
    """The layout of features.md A8: 10 layers, the blocks, two times three layers, then pad, convolution, tanh."""
    up = 10 + n_blocks
    convs = [f"model.{i}" for i in (1, 4, 7, up, up + 3)]
    norms = [f"model.{i}" for i in (2, 5, 8, up + 1, up + 4)]
    second = 6 if dropout else 5
    for block in range(10, up):
        convs += [f"model.{block}.conv_block.{i}" for i in (1, second)]
        norms += [f"model.{block}.conv_block.{i}" for i in (2, second + 1)]
    keys = {f"model.{up + 7}.{k}" for k in ("weight", "bias")}
    if norm == "instance":
        return keys | {f"{conv}.{k}" for conv in convs for k in ("weight", "bias")}
    return keys | {f"{conv}.weight" for conv in convs} | {f"{n}.{k}" for n in norms for k in BATCH_NORM}


@pytest.mark.parametrize("n_blocks", [6, 9])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_resnet_keys_are_the_published_ones(n_blocks, norm, dropout):
    keys = ResnetGenerator(n_blocks, ngf=2, norm=norm, dropout=dropout).state_dict().keys()

    assert keys == published_resnet_keys(n_blocks, norm, dropout=dropout > 0)


def test_resnet_with_nine_blocks_and_instance_norm_has_48_tensors():
    assert len(ResnetGenerator(9, ngf=2).state_dict()) == 48


def test_resnet_weights_have_the_published_shapes():
    weights = ResnetGenerator(9).state_dict()

    assert weights["model.1.weight"].shape == (64, 3, 7, 7)
    assert weights["model.10.conv_block.1.weight"].shape == (256, 256, 3, 3)
    assert weights["model.19.weight"].shape == (256, 128, 3, 3)
    assert weights["model.26.weight"].shape == (3, 64, 7, 7)


@pytest.mark.parametrize("size", [(8, 8), (36, 20), (64, 64)])
def test_resnet_output_has_the_size_of_its_input_and_lies_between_minus_one_and_one(size):
    output = ResnetGenerator(2, ngf=2)(torch.randn(1, 3, *size))

    assert output.shape == (1, 3, *size)
    assert output.abs().max() <= 1


@pytest.mark.parametrize("name", ["resnet_9", "resnet_0blocks", "resnet_blocks", "unet_256"])
def test_names_that_are_no_resnet_are_refused(name):
    with pytest.raises(UsageError, match="expected resnet_6blocks"):
        resnet_blocks(name)


SMALL = {
    "unet_32": {"ngf": 2},
    "resnet_2blocks": {"ngf": 2},
    "global": {"input_channels": 3, "ngf": 2, "n_downsampling": 2, "n_blocks": 1},
    "local": {"input_channels": 3, "ngf": 4, "n_downsampling": 2, "n_blocks": 1, "n_enhancers": 2, "n_local_blocks": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_generator_takes_the_smallest_size_of_its_rule_and_a_refused_one_breaks_it(name):
    architecture = Architecture(name=name, arguments=SMALL[name])
    rule = size_rule(architecture)
    smallest = (rule.minimum, rule.minimum + rule.multiple_of)

    check_size(architecture, smallest)
    assert build_generator(architecture)(torch.zeros(2, 3, *smallest)).shape == (2, 3, *smallest)
    with pytest.raises(UsageError, match=f"multiples of {rule.multiple_of} from {rule.minimum} on"):
        check_size(architecture, (rule.minimum + rule.multiple_of - 1, rule.minimum))


@pytest.mark.parametrize(("name", "multiple"), [("global", 16), ("local", 32)])
def test_what_an_architecture_leaves_out_has_the_networks_default(name, multiple):
    assert size_rule(Architecture(name=name, arguments={"input_channels": 3})).multiple_of == multiple


@pytest.mark.parametrize("downs", [8, 7])
def test_unet_keys_are_the_published_ones(downs):
    assert UnetGenerator(downs, ngf=2).state_dict().keys() == published_unet_keys(downs, BATCH_NORM, ("weight",))


def test_unet_keys_with_instance_norm_have_biases_and_no_norms():
    keys = UnetGenerator(8, ngf=2, norm="instance").state_dict().keys()

    assert keys == published_unet_keys(8, (), ("weight", "bias"))


def test_dropout_moves_no_key():
    assert UnetGenerator(8, ngf=2, dropout=0.0).state_dict().keys() == UnetGenerator(8, ngf=2).state_dict().keys()


def test_unet_weights_have_the_published_shapes():
    weights = UnetGenerator(8).state_dict()

    assert weights["model.model.0.weight"].shape == (64, 3, 4, 4)
    assert weights["model.model.1.model.3.model.5.weight"].shape == (512, 128, 4, 4)
    assert weights["model.model.1" + ".model.3" * 6 + ".model.1.weight"].shape == (512, 512, 4, 4)
    assert weights["model.model.3.weight"].shape == (128, 3, 4, 4)


def test_patchgan_keys_are_the_published_ones():
    keys = {f"model.{conv}.{k}" for conv in (0, 11) for k in ("weight", "bias")}
    keys |= {f"model.{conv}.weight" for conv in (2, 5, 8)}
    keys |= {f"model.{norm}.{k}" for norm in (3, 6, 9) for k in BATCH_NORM}

    assert PatchGAN(6).state_dict().keys() == keys


def test_unet_256_has_dropout_in_three_levels_and_unet_128_in_two():
    count = {downs: sum(isinstance(m, nn.Dropout) for m in UnetGenerator(downs, ngf=2).modules()) for downs in (8, 7)}

    assert count == {8: 3, 7: 2}


def test_one_verdict_of_the_patchgan_sees_70_by_70_pixels():
    discriminator = PatchGAN(1, ndf=2).double().eval()
    image = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)

    verdicts = discriminator(image)
    verdicts[0, 0, 15, 15].backward()

    seen = image.grad[0, 0] != 0
    assert (seen.any(0).sum().item(), seen.any(1).sum().item()) == (70, 70)


def test_a_256_pixel_image_gets_30_by_30_verdicts():
    assert PatchGAN(6, ndf=2)(torch.zeros(1, 6, 256, 256)).shape == (1, 1, 30, 30)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (128, 32)])
def test_unet_output_has_the_size_of_its_input_and_lies_between_minus_one_and_one(size):
    output = UnetGenerator(5, ngf=2, norm="instance")(torch.randn(2, 3, *size))

    assert output.shape == (2, 3, *size)
    assert output.abs().max() <= 1


@pytest.mark.parametrize(
    ("size", "name"),
    [((256, 256), "unet_256"), ((128, 128), "unet_128"), ((512, 768), "unet_256"), ((96, 64), "unet_32")],
)
def test_the_default_generator_is_the_deepest_that_fits(size, name):
    assert unet_for(*size) == name


def test_a_size_no_unet_takes_is_refused():
    with pytest.raises(UsageError, match="multiples of 32"):
        unet_for(100, 128)


@pytest.mark.parametrize("name", ["unet_16", "unet_100", "unet_", "resnet_9", "unet_0"])
def test_names_that_are_no_unet_are_refused(name):
    with pytest.raises(UsageError, match="expected unet_32"):
        unet_downs(name)


def test_fresh_weights_follow_the_papers_distribution():
    torch.manual_seed(0)
    network = UnetGenerator(8, ngf=16)

    init_weights(network)

    convolution = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    scales = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert convolution.mean().item() == pytest.approx(0, abs=1e-4)
    assert convolution.std().item() == pytest.approx(0.02, rel=0.01)
    assert scales.mean().item() == pytest.approx(1, abs=5e-3)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.fixture
def trained_unet():
    """A U-Net whose running statistics are far from those of a single image."""
    torch.manual_seed(1)
    network = UnetGenerator(5, ngf=4, dropout=0.0).double()
    init_weights(network, gain=0.2)
    for _ in range(3):
        network(torch.randn(4, 3, 64, 64, dtype=torch.float64) * 3 + 1)
    return network


def test_image_statistics_are_what_batch_norm_in_training_mode_does_at_batch_one(trained_unet):
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)

    folded = for_inference(trained_unet, "image")(image)

    torch.testing.assert_close(folded, trained_unet.train()(image), rtol=0, atol=1e-12)


def test_running_statistics_are_what_batch_norm_in_evaluation_mode_does(trained_unet):
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)

    kept = for_inference(trained_unet, "running")(image)

    torch.testing.assert_close(kept, trained_unet.eval()(image), rtol=0, atol=0)


def test_the_two_statistics_are_different_functions(trained_unet):
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)

    difference = for_inference(trained_unet, "image")(image) - for_inference(trained_unet, "running")(image)

    assert difference.abs().max() > 0.01


def test_the_inference_form_leaves_the_trained_network_alone(trained_unet):
    before = {name: tensor.clone() for name, tensor in trained_unet.state_dict().items()}

    for_inference(trained_unet, "image")(torch.randn(1, 3, 64, 64, dtype=torch.float64))

    assert trained_unet.training
    assert all(torch.equal(before[name], tensor) for name, tensor in trained_unet.state_dict().items())


@pytest.mark.parametrize("statistics", ["image", "running"])
def test_the_inference_form_of_a_resnet_gives_the_same_images(statistics):
    network = ResnetGenerator(2, ngf=2).double()
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    assert torch.equal(for_inference(network, statistics)(image), network(image))


def test_a_resnet_with_batch_norm_becomes_one_with_instance_norms_at_batch_one():
    torch.manual_seed(0)
    network = ResnetGenerator(2, ngf=2, norm="batch").double()
    init_weights(network, gain=0.2)
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    folded = for_inference(network, "image")(image)

    torch.testing.assert_close(folded, network(image), rtol=0, atol=1e-12)


def test_the_inference_form_has_no_dropout():
    network = for_inference(UnetGenerator(8, ngf=2), "image")
    image = torch.randn(1, 3, 256, 256)

    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("name", "argument"),
    [("student_2blocks", {"width": 0}), ("resnet_1blocks", {"ngf": 0}), ("resnet_1blocks", {"dropout": 2.0})],
)
def test_numbers_that_make_no_network_are_refused_in_one_line(name, argument):
    architecture = Architecture(name=name, arguments={"input_channels": 3, "output_channels": 3, **argument})

    with pytest.raises(UsageError, match=rf"^generator {name} with .*: not one that works \([^\n]*\)$"):
        new_generator(architecture)
