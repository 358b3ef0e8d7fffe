"""pix2pixHD's networks against the published key layouts and derivations of our own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional
from vgg_weights import torchvisions_vgg19

from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.networks.labels import LabelEncoding, instance_edges
from i2i_trainer.networks.patchgan import MultiscalePatchGAN
from i2i_trainer.networks.pix2pixhd import FeatureEncoder, GlobalGenerator, LocalEnhancer, instance_average
from i2i_trainer.networks.vgg import Vgg19Features, load_vgg19

BOTH = ("weight", "bias")


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(before: int, after: int, kernel: int) -> int:
    return before * after * kernel * kernel + after


def global_count(channels: int, ngf: int, downs: int, blocks: int) -> int:
    """Weights by hand: 7x7 in, 3x3 down, two 3x3 a block, 3x3 up, 7x7 out; every convolution with a bias."""
    widths = [ngf * 2**i for i in range(downs + 1)]
    there = sum(conv(a, b, 3) for a, b in pairwise(widths))
    back = sum(conv(b, a, 3) for a, b in pairwise(widths))
    return conv(channels, ngf, 7) + there + blocks * 2 * conv(widths[-1], widths[-1], 3) + back + conv(ngf, 3, 7)


def test_the_global_generator_for_cityscapes_has_as_many_weights_as_its_layers_add_up_to():
    # 35 classes and an edge channel: 36. The figure is the sum above; the layout test below ties it to the layers.
    with torch.device("meta"):
        network = GlobalGenerator(36)

    assert count(network) == global_count(36, 64, 4, 9)
    assert count(network) / 1e6 == pytest.approx(182.5, abs=0.1)


def test_the_local_enhancer_for_cityscapes_adds_its_own_layers_and_takes_g1_without_its_head():
    head = conv(64, 3, 7)
    own = conv(36, 32, 7) + conv(32, 64, 3) + 3 * 2 * conv(64, 64, 3) + conv(64, 32, 3) + conv(32, 3, 7)

    with torch.device("meta"):
        network = LocalEnhancer(36)

    assert count(network) == global_count(36, 64, 4, 9) - head + own


def published_global_keys(downs: int, blocks: int, *, head: bool = True) -> set[str]:
    """Features.md A8: downs 4..3n+1, blocks 3n+4.., up 3n+4+b + 3i, last convolution 6n+5+b."""
    convs = [1, *range(4, 3 * downs + 2, 3), *(3 * downs + 4 + blocks + 3 * i for i in range(downs))]
    convs += [6 * downs + 5 + blocks] if head else []
    keys = {f"model.{i}.{k}" for i in convs for k in BOTH}
    block_numbers = range(3 * downs + 4, 3 * downs + 4 + blocks)
    return keys | {f"model.{b}.conv_block.{i}.{k}" for b in block_numbers for i in (1, 5) for k in BOTH}


@pytest.mark.parametrize(("downs", "blocks", "last"), [(4, 9, 38), (3, 9, 32)])
def test_global_keys_are_the_published_ones(downs, blocks, last):
    keys = GlobalGenerator(3, ngf=1, n_downsampling=downs, n_blocks=blocks).state_dict().keys()

    assert keys == published_global_keys(downs, blocks)
    assert f"model.{last}.weight" in keys


def test_local_keys_are_the_published_ones():
    keys = LocalEnhancer(3, ngf=2).state_dict().keys()

    own = {f"model1_1.{i}.{k}" for i in (1, 4) for k in BOTH}
    own |= {f"model1_2.{b}.conv_block.{i}.{k}" for b in range(3) for i in (1, 5) for k in BOTH}
    own |= {f"model1_2.{i}.{k}" for i in (3, 7) for k in BOTH}
    assert keys == published_global_keys(4, 9, head=False) | own


def test_only_the_outermost_of_two_enhancers_ends_in_an_image():
    keys = LocalEnhancer(3, ngf=4, n_downsampling=1, n_blocks=1, n_enhancers=2).state_dict().keys()

    assert "model2_2.7.weight" in keys
    assert "model1_2.7.weight" not in keys


def test_a_width_that_cannot_be_halved_is_refused():
    with pytest.raises(UsageError, match="--ngf 6: expected a multiple of 4 for 2 enhancers"):
        LocalEnhancer(3, ngf=6, n_enhancers=2)


@pytest.mark.parametrize("n_enhancers", [1, 2])
def test_the_enhancers_compute_what_the_paper_draws(n_enhancers):
    torch.manual_seed(0)
    network = LocalEnhancer(
        2, ngf=4, n_downsampling=1, n_blocks=1, n_enhancers=n_enhancers, n_local_blocks=1
    ).double()  # fmt: skip
    image = torch.randn(1, 2, 32, 48, dtype=torch.float64)

    found = network(image)

    def halved(x):  # the mean over the part of a 3x3 window that lies inside the picture
        ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
        kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype)
        sums = torch.cat([functional.conv2d(x[:, i : i + 1], kernel, stride=2, padding=1) for i in range(2)], 1)
        return sums / functional.conv2d(ones, kernel, stride=2, padding=1)

    pyramid = [image]
    for _ in range(n_enhancers):
        pyramid.append(halved(pyramid[-1]))
    expected = network.model(pyramid[n_enhancers])
    for k in range(1, n_enhancers + 1):
        at_its_size = pyramid[n_enhancers - k]
        expected = getattr(network, f"model{k}_2")(getattr(network, f"model{k}_1")(at_its_size) + expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.shape == (1, 3, 32, 48)


def test_the_enhancer_takes_up_what_the_global_generator_has_learnt():
    one = GlobalGenerator(3, ngf=4, n_downsampling=2, n_blocks=1)
    local = LocalEnhancer(3, ngf=4, n_downsampling=2, n_blocks=1)

    local.load_global(one.state_dict())

    features = one.model[:-3](torch.zeros(1, 3, 16, 16))
    assert torch.equal(local.model(torch.zeros(1, 3, 16, 16)), features)
    assert len(list(local.trunk_parameters())) == len(list(one.parameters())) - 2


def test_another_global_generator_is_refused():
    local = LocalEnhancer(3, ngf=4, n_downsampling=2, n_blocks=1)

    with pytest.raises(ModelError, match="weights do not fit"):
        local.load_global(GlobalGenerator(3, ngf=8, n_downsampling=2, n_blocks=1).state_dict())


def test_encoder_keys_are_the_published_ones():
    keys = FeatureEncoder(3, nef=2).state_dict().keys()

    assert keys == {f"model.{i}.{k}" for i in (1, 4, 7, 10, 13, 16, 19, 22, 25, 29) for k in BOTH}


def test_every_object_gets_the_mean_of_its_features():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=random)
    instances = torch.randint(0, 4, (2, 1, 6, 5), generator=random) * 1000

    found = instance_average(features, instances)

    expected = features.clone()
    for image in range(2):
        for instance in instances[image].unique():
            where = instances[image, 0] == instance
            for channel in range(3):
                expected[image, channel][where] = features[image, channel][where].mean()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_large_object_keeps_its_mean_in_half_precision(dtype):
    features = torch.rand(1, 2, 96, 96, generator=torch.Generator().manual_seed(0)).to(dtype)

    found = instance_average(features, torch.zeros(1, 1, 96, 96, dtype=torch.int64))

    # More pixels than either type can count to; the only rounding is that of the result.
    expected = features.double().mean((2, 3), keepdim=True).expand(-1, -1, 96, 96)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)


def test_the_gradient_of_a_large_object_is_whole_in_half_precision():
    features = torch.zeros(1, 1, 96, 96, dtype=torch.bfloat16, requires_grad=True)

    instance_average(features, torch.zeros(1, 1, 96, 96, dtype=torch.int64)).backward(torch.ones_like(features))

    # Each pixel has a part of 1/n in each of n pixels.
    torch.testing.assert_close(features.grad, torch.ones_like(features), rtol=0.01, atol=0)


def test_the_mean_of_an_object_passes_its_gradient_on():
    features = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    instances = torch.tensor([0, 0, 1, 70000]).repeat(4, 1)[None, None]

    assert torch.autograd.gradcheck(lambda x: instance_average(x, instances), features)


def test_multiscale_keys_are_the_published_ones():
    keys = MultiscalePatchGAN(3, ndf=1, num_D=2).state_dict().keys()

    assert keys == {f"scale{s}_layer{j}.0.{k}" for s in (0, 1) for j in range(5) for k in BOTH}


def test_discriminators_see_full_size_first_and_halves_after_it():
    network = MultiscalePatchGAN(3, ndf=2, num_D=3)
    image = torch.randn(1, 3, 64, 64)

    scales = network(image)

    assert [len(features) for features in scales] == [5, 5, 5]
    # Kernel 4 with padding 2: a side s becomes s // 2 + 1, and s + 1 where the stride is 1.
    assert [tuple(f.shape[2:]) for f in scales[0]] == [(33, 33), (17, 17), (9, 9), (10, 10), (11, 11)]
    half = functional.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
    # The published layout counts scales from the smallest: scale2 sees full size, scale1 the half.
    assert torch.equal(scales[0][0], network.scale2_layer0(image))
    assert torch.equal(scales[1][0], network.scale1_layer0(half))


def test_labels_become_one_channel_a_class():
    labels = torch.tensor([[[[0, 2], [1, 2]]]], dtype=torch.uint8)

    encoded = LabelEncoding(3, instance_edges=False)(labels)

    assert encoded.shape == (1, 3, 2, 2)
    assert encoded.dtype == torch.float32
    assert torch.equal(encoded.argmax(1, keepdim=True), labels.long())
    assert torch.equal(encoded.sum(1), torch.ones(1, 2, 2))


def test_edges_are_where_one_of_four_neighbours_is_another_object():
    ids = np.random.default_rng(0).integers(0, 3, (9, 12)) * 30_000

    found = instance_edges(torch.from_numpy(ids)[None, None])[0, 0].numpy()

    for y in range(9):
        for x in range(12):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            differs = any(ids[v, u] != ids[y, x] for v, u in around if 0 <= v < 9 and 0 <= u < 12)
            assert found[y, x] == float(differs)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's exporter uses what torch deprecates
@pytest.mark.parametrize("label_type", [torch.uint8, torch.int64])
def test_encoded_labels_are_the_same_in_onnx_at_any_size(label_type):
    encoding = LabelEncoding(5, instance_edges=True).eval()
    random = torch.Generator().manual_seed(0)

    def maps(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(0, 5, (1, 1, height, width), generator=random).to(label_type)
        return labels, torch.randint(0, 3, (1, 1, height, width), generator=random) * 1000

    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        encoding, maps(8, 12), input_names=["labels", "instances"], dynamo=True, dynamic_shapes=(sides, sides),
        verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())

    labels, instances = maps(20, 16)
    (found,) = session.run(None, {"labels": labels.numpy(), "instances": instances.numpy()})
    np.testing.assert_array_equal(found, encoding(labels, instances).numpy())


@pytest.fixture
def vgg_weights():
    return torchvisions_vgg19()


def test_vgg_takes_torchvisions_file_and_gives_the_five_maps(tmp_path, vgg_weights):
    torch.save(vgg_weights, tmp_path / "vgg19.pth")
    image = torch.rand(1, 3, 32, 32)

    maps = load_vgg19(tmp_path / "vgg19.pth")(image)

    assert [tuple(m.shape[1:]) for m in maps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    first = functional.relu(functional.conv2d(image, vgg_weights["features.0.weight"], padding=1))
    torch.testing.assert_close(maps[0], first)
    assert not any(p.requires_grad for p in Vgg19Features().parameters())


@pytest.mark.parametrize(
    "content", [None, b"text", {"other": torch.zeros(1)}], ids=["missing", "text", "other weights"]
)
def test_a_file_that_is_not_vggs_is_one_line_that_says_where_to_get_it(tmp_path, content):
    path = tmp_path / "vgg19.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)

    with pytest.raises(ModelError, match=r"--vgg .*expected torchvision's VGG19 weights.*or leave --vgg out"):
        load_vgg19(path)
