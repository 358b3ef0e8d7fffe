"""An exported model is the function that was trained, on real pictures and through the runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import SHARED_DATA, run
from drawings import drawing, outlines

from i2i_export.graph import OPSET
from i2i_runtime import Translator
from i2i_runtime.card import METADATA_KEY, Architecture, Card, SizeRule, TrainingRecord
from i2i_runtime.image import list_images, read_image, resize
from i2i_trainer.checkpoint import Checkpoint, save_checkpoint
from i2i_trainer.data.transforms import to_tensor
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.trained import load_trained

FACADES = SHARED_DATA / "cmp_facades" / "test"


def label_pictures(count: int, side: int) -> list[np.ndarray]:
    """Label halves of real test pairs."""
    if not FACADES.is_dir():
        pytest.skip("shared/data/cmp_facades is not here: real pictures are the point of this test")
    halves = (read_image(path)[:, 256:] for path in list_images(FACADES)[:count])
    return [resize(np.ascontiguousarray(half), (side, side)) for half in halves]


def make_checkpoint(path, size=(64, 64), *, name="unet_64", ngf=8, norm="batch", batch=1):
    """A generator whose weights, and running statistics, are far from those of a fresh one."""
    torch.manual_seed(0)
    architecture = Architecture(
        name=name,
        arguments={"input_channels": 3, "output_channels": 3, "ngf": ngf, "norm": norm, "dropout": 0.5},
    )
    generator = build_generator(architecture)
    init_weights(generator, gain=0.1)
    with torch.no_grad():
        for _ in range(3):
            generator(torch.randn(2, 3, *size) * 2 + 0.5)
    multiple = 2 ** int(np.log2(int(name.removeprefix("unet_"))))
    card = replace(
        BASE_CARD,
        generator=architecture,
        size=SizeRule(multiple_of=multiple, minimum=multiple),
        training=TrainingRecord(data="drawings", size=size, batch=batch, steps=3, epochs=1.0, seed=0),
    )
    examples = [{"input": to_tensor(outlines(drawing(seed, *size))).half()} for seed in range(3)]
    save_checkpoint(
        path,
        Checkpoint(
            cards={"G": card},
            config="{}",
            networks={"G": generator.state_dict()},
            examples={"G": examples},
            training_state=None,
        ),
    )
    return path


def base_card() -> Card:
    from onnx_models import make_card

    return replace(make_card(), export=None, name="drawings")


BASE_CARD = base_card()


def export(checkpoint, target, *arguments):
    finished = run("i2i-export", checkpoint, "-o", target, *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "last.pt")


@pytest.fixture(scope="module")
def float_model(checkpoint):
    path = checkpoint.with_name("float.onnx")
    export(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def uint8_model(checkpoint):
    path = checkpoint.with_name("uint8.onnx")
    export(checkpoint, path, "--io", "uint8")
    return path


def torch_says(checkpoint, image, statistics=None) -> np.ndarray:
    """(h, w, 3) uint8 BGR to the generator's float output (3, h, w), by arithmetic of this test's own."""
    tensor = torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)[None]
    with torch.no_grad():
        return load_trained(checkpoint, statistics=statistics).generator(tensor)[0].numpy()


def as_grey_levels(output: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((output + 1) * 127.5), 0, 255).transpose(1, 2, 0)[:, :, ::-1]


@pytest.mark.parametrize(
    ("name", "side", "ngf", "norm", "statistics"),
    [
        ("unet_128", 128, 16, "batch", "image"),
        ("unet_128", 128, 16, "batch", "running"),
        pytest.param("unet_256", 256, 8, "batch", "image", marks=pytest.mark.slow),
        ("unet_32", 96, 8, "instance", "image"),
    ],
)
def test_float_output_on_real_pictures_equals_torch_to_1e_4(tmp_path, name, side, ngf, norm, statistics):
    pictures = label_pictures(10, side)
    checkpoint = make_checkpoint(tmp_path / "last.pt", (side, side), name=name, ngf=ngf, norm=norm)
    export(checkpoint, tmp_path / "model.onnx", "--norm-statistics", statistics)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")

    for picture in pictures:
        tensor = (picture[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)[None]
        (output,) = session.run(None, {"image": tensor})
        np.testing.assert_allclose(output[0], torch_says(checkpoint, picture, statistics), rtol=0, atol=1e-4)


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_the_runtimes_pictures_equal_torchs_to_one_grey_level(tmp_path, graph_io):
    pictures = label_pictures(10, 128)
    checkpoint = make_checkpoint(tmp_path / "last.pt", (128, 128), name="unet_128", ngf=16)
    export(checkpoint, tmp_path / "model.onnx", "--io", graph_io)

    with Translator(tmp_path / "model.onnx") as translator:
        for picture in pictures:
            difference = translator(picture) - as_grey_levels(torch_says(checkpoint, picture))
            assert np.abs(difference).max() <= 1


def test_the_model_carries_its_card_with_the_proof_inside(float_model, checkpoint):
    with Translator(float_model) as translator:
        card = translator.card

    assert (card.name, card.model_type, card.direction) == ("drawings", "pix2pix", "AtoB")
    assert (card.size.height, card.size.width) == (64, 64)
    assert (card.export.opset, card.export.graph_io, card.export.norm_statistics) == (18, "float", "image")
    (parity,) = card.parity
    assert parity.pictures == 3
    assert 0 < parity.max_abs <= parity.tolerance == 1e-4
    assert parity.psnr_db > 80
    assert len(card.made_with.source_sha256) == 64
    assert {"i2i", "torch", "onnx"} >= set(card.made_with.versions) >= {"torch", "onnx"}


def test_the_proof_is_printed(checkpoint, tmp_path):
    finished = export(checkpoint, tmp_path / "model.onnx")

    assert "max abs" in finished.stdout
    assert "PSNR" in finished.stdout
    assert "passes" in finished.stdout


def test_the_graph_is_valid_whole_and_of_the_opset_that_was_asked_for(float_model):
    model = onnx.load(float_model)

    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    assert [p.name for p in float_model.parent.glob("*.data")] == []


def test_the_file_does_not_say_where_it_was_made(float_model, uint8_model):
    import i2i_trainer

    for path in (float_model, uint8_model):
        data = path.read_bytes()
        assert b"site-packages" not in data
        assert str(next(iter(i2i_trainer.__path__))).encode() not in data
        assert b"stack_trace" not in data


def test_a_uint8_graph_begins_and_ends_with_a_cast(uint8_model):
    graph = onnx.load(uint8_model).graph

    assert (graph.node[0].op_type, graph.node[-1].op_type) == ("Cast", "Cast")
    assert sum(node.op_type == "Cast" for node in graph.node) == 2
    uint8 = onnx.TensorProto.UINT8
    assert (graph.input[0].type.tensor_type.elem_type, graph.output[0].type.tensor_type.elem_type) == (uint8, uint8)


def test_no_dropout_and_no_batch_norm_is_left_in_the_graph(float_model):
    operators = {node.op_type for node in onnx.load(float_model).graph.node}

    assert operators == {"Conv", "ConvTranspose", "InstanceNormalization", "LeakyRelu", "Relu", "Concat", "Tanh"}


def test_running_statistics_are_folded_into_the_convolutions(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model.onnx", "--norm-statistics", "running")

    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "InstanceNormalization" not in operators


@pytest.mark.parametrize(("batch", "statistics"), [(1, "image"), (4, "running")])
def test_the_norms_follow_the_batch_size_of_the_training(tmp_path, batch, statistics):
    assert load_trained(make_checkpoint(tmp_path / "last.pt", batch=batch)).statistics == statistics


def test_a_model_can_be_exported_for_another_size_than_it_was_trained_at(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "wide.onnx", "--size", "64x128")
    picture = outlines(drawing(9, 64, 128))

    with Translator(tmp_path / "wide.onnx") as translator:
        difference = translator(picture) - as_grey_levels(torch_says(checkpoint, picture))

    assert np.abs(difference).max() <= 1


def test_the_proof_can_use_pictures_of_the_users_own(checkpoint, tmp_path):
    import cv2

    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), drawing(number, 50, 70))

    finished = export(checkpoint, tmp_path / "model.onnx", "--pictures", tmp_path)

    assert "5 pictures" in finished.stdout
