"""A student's graph is convolutions and little else, in every form in which it can be exported."""

from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from commands import here
from drawings import drawing, outlines
from torch.utils.flop_counter import FlopCounterMode

from i2i_export.cost import count
from i2i_export.int8 import convolutions
from i2i_export.onnx_file import read_graph
from i2i_runtime import Translator
from i2i_runtime.card import Architecture, Card, ImageSpec, TrainingRecord
from i2i_runtime.image import image_to_tensor, tensor_to_image
from i2i_runtime.tiling import TiledTranslator
from i2i_trainer.checkpoint import Checkpoint, save_checkpoint
from i2i_trainer.data.transforms import to_tensor
from i2i_trainer.networks.build import new_generator, size_rule
from i2i_trainer.trained import load_trained

SIZE = (32, 48)
STUDENTS = {
    "plain": {"width": 16, "inner": "8"},
    "grouped with batch norm": {"width": 32, "half": 8, "block": "grouped", "norm": "batch"},
    "separable": {"width": 16, "block": "separable"},
}


def save_student(path, batch=4, **arguments):
    """The checkpoint of a student with a block that was hardly trained."""
    torch.manual_seed(0)
    architecture = Architecture(name="student_1blocks", arguments=arguments)
    generator = new_generator(architecture)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for _ in range(3):
            generator(torch.randn(2, 3, *SIZE) * 2 + 0.5)  # norms gather statistics
    card = Card(
        name="drawings",
        model_type="pix2pix",
        direction="AtoB",
        generator=architecture,
        input=ImageSpec.of(3),
        output=ImageSpec.of(3),
        size=size_rule(architecture),
        training=TrainingRecord(data="drawings", size=SIZE, batch=batch, steps=3, epochs=1.0, seed=0),
    )
    examples = {"G": [{"input": to_tensor(outlines(drawing(seed, *SIZE)))} for seed in range(6)]}
    networks = {"G": generator.state_dict()}
    save_checkpoint(
        path, Checkpoint(cards={"G": card}, config="{}", networks=networks, examples=examples, training_state=None)
    )
    return path


def export(checkpoint, target, *arguments):
    finished = here("i2i-export", checkpoint, "-o", target, *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished


def by_pytorch(checkpoint, image: np.ndarray) -> np.ndarray:
    trained = load_trained(checkpoint)
    with torch.no_grad():
        result = trained.generator(torch.from_numpy(image_to_tensor(image, trained.card.input)))
    return tensor_to_image(result[0].numpy(), trained.card.output)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One of nearly every kind of layer."""
    return save_student(tmp_path_factory.mktemp("student") / "last.pt", **STUDENTS["grouped with batch norm"])


@pytest.fixture(scope="module", params=STUDENTS)
def exported(request, tmp_path_factory):
    """A checkpoint of each kind and its FP32 graph."""
    source = save_student(tmp_path_factory.mktemp("student") / "last.pt", **STUDENTS[request.param])
    export(source, source.with_name("float.onnx"))
    return source, source.with_name("float.onnx")


def test_the_graph_is_convolutions_and_what_libraries_fuse_with_them(exported):
    """Nothing that copies the picture, and no norm: running statistics are part of the weights."""
    model, _ = read_graph(exported[1])

    kinds = Counter(node.op_type for node in model.graph.node)
    assert set(kinds) == {"Conv", "Relu", "Add", "DepthToSpace", "Tanh"}
    assert (kinds["Add"], kinds["Tanh"]) == (1, 1)


def test_onnx_runtime_translates_as_pytorch_does(exported):
    checkpoint, path = exported
    image = drawing(7, *SIZE)

    with Translator(path) as translator:
        found = translator(image)

    assert np.abs(found.astype(int) - by_pytorch(checkpoint, image)).max() <= 1


def test_multiply_adds_are_those_of_pytorchs_network(exported):
    checkpoint, path = exported
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        load_trained(checkpoint).generator(torch.zeros(1, 3, *SIZE))

    assert count(onnx.load(path)).macs == counter.get_total_flops() // 2


def test_fp16_is_proven(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model.onnx", "--fp16")

    _, card = read_graph(tmp_path / "model.onnx")
    assert card.export.kept_fp32 == ()
    assert card.parity[0].worst_psnr_db > 45


def test_int8_is_proven_with_all_inner_convolutions_in_int8(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model.onnx", "--int8", "--min-psnr", 20)

    model, card = read_graph(tmp_path / "model.onnx")
    names = convolutions(model)
    assert card.export.kept_fp32 == (names[0], names[-1])
    assert 20 <= card.parity[0].worst_psnr_db < 80


def test_a_dynamic_graph_takes_other_sizes(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model.onnx", "--dynamic")
    image = drawing(3, 64, 40)

    with Translator(tmp_path / "model.onnx") as translator:
        found = translator(image)

    assert np.abs(found.astype(int) - by_pytorch(checkpoint, image)).max() <= 1


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")
def test_openvino_translates_as_pytorch_does(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model.xml")
    image = drawing(7, *SIZE)

    with Translator(tmp_path / "model.xml") as translator:
        found = translator(image)

    assert np.abs(found.astype(int) - by_pytorch(checkpoint, image)).max() <= 1


def test_a_student_of_running_statistics_tiles_as_it_is(checkpoint, tmp_path):
    said = export(checkpoint, tmp_path / "model.onnx", "--tileable", "--size", 160).stderr
    assert "it tiles as it is" in said
    image = drawing(2, 160, 300)

    with TiledTranslator(tmp_path / "model.onnx", overlap=80) as translator:
        assert translator.assumed is None
        found = translator(image)

    assert np.abs(found.astype(int) - by_pytorch(checkpoint, image)).max() <= 1


def test_a_student_with_instance_norms_takes_their_statistics_where_it_is_made_tileable(tmp_path):
    checkpoint = save_student(tmp_path / "last.pt", width=16, half=8, norm="instance")
    export(checkpoint, tmp_path / "model.onnx", "--tileable")

    _, card = read_graph(tmp_path / "model.onnx")
    assert card.export.norm_channels == 8 + 16 + 2 * 16 + 4 * 8
    with TiledTranslator(tmp_path / "model.onnx") as translator:
        assert translator(drawing(2, 80, 112)).shape == (80, 112, 3)
