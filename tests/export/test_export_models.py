"""Every model type goes from a training through i2i-export to an ONNX file that computes the same."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import here, the_error_line
from drawings import drawing, write_labelled, write_pairs, write_unpaired

from i2i_runtime.card import METADATA_KEY, Card
from i2i_trainer.config import RunConfig
from i2i_trainer.loop import train
from i2i_trainer.models import config_type
from i2i_trainer.trained import load_trained

CLASSES = 4
HD = {"ngf": 4, "ndf": 2, "n_downsampling": 2, "n_blocks": 1, "n_local_blocks": 1, "num_D": 1, "n_layers": 1}
LOCAL = {**HD, "n_enhancers": 1, "global_share": 0.3, "frozen_share": 0.3}
# With ema 0 and a large rate, weights, and so styles, are far from those of a fresh network after two steps.
RUN = {"size": (32, 32), "steps": 2, "device": "cpu", "sample_every": 100, "ema": 0.0, "lr": 0.01}


def trained(folder, model_type, config, **settings):
    settings = {**RUN, "data": str(folder / "data"), "out": str(folder / "run"), **settings}
    train(model_type, RunConfig(**settings), config_type(model_type)(**config), resume=None)
    return folder / "run" / "last.pt"


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory):
    """Trained checkpoints by their names, each made when it is first asked for."""
    made = {}

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        data = folder / "data"
        if name == "cyclegan":
            write_unpaired(data, "train", 2, 2, 40, 40)
            config = {"ngf": 2, "ndf": 2, "generator": "resnet_1blocks"}
            return trained(folder, "cyclegan", config)
        if name == "cyclegan_1_to_3":
            write_unpaired(data, "train", 2, 2, 40, 40)
            config = {"ngf": 2, "ndf": 2, "generator": "resnet_1blocks", "lambda_identity": 0.0}
            return trained(folder, "cyclegan", config, input_channels=1)
        if name == "five_channels":
            for number in range(3):
                (data / "trainA").mkdir(parents=True, exist_ok=True)
                (data / "trainB").mkdir(parents=True, exist_ok=True)
                image = drawing(number, 40, 40)
                np.save(data / "trainA" / f"{number}.npy", np.dstack((image, image[:, :, :2] // 2)))
                cv2.imwrite(str(data / "trainB" / f"{number}.png"), image)
            return trained(folder, "pix2pix", {"ngf": 2, "ndf": 2}, input_channels=5)
        if name == "grey":
            write_pairs(data / "train", 2, 40, 40)
            return trained(folder, "pix2pix", {"ngf": 2, "ndf": 2}, input_channels=1, output_channels=1)
        write_labelled(data, "train", 3, 40, 40)
        labels = {"label_nc": CLASSES}
        if name == "pix2pix_labels":
            return trained(folder, "pix2pix", {"ngf": 2, "ndf": 2}, **labels)
        if name == "no_instances":
            return trained(folder, "pix2pixhd", {**HD, "styles": 2}, instances=False, **labels)
        if name == "no_styles":
            return trained(folder, "pix2pixhd", HD, **labels)
        if name == "local":
            # 64 pixels: the encoder halves the global stage's 32 four times.
            return trained(folder, "pix2pixhd", {**LOCAL, "styles": 3}, size=(64, 64), steps=3, **labels)
        return trained(folder, "pix2pixhd", {**HD, "styles": 3}, **labels)

    def get(name):
        if name not in made:
            made[name] = make(name)
        return made[name]

    return get


def export(checkpoint, target, *arguments) -> Card:
    finished = here("i2i-export", checkpoint, "-o", target, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert "passes" in finished.stdout
    return card_in(target)


def card_in(path) -> Card:
    (entry,) = (entry for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    return Card.from_json(entry.value)


def onnx_says(path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == list(inputs)
    (output,) = session.run(None, inputs)
    return output


def torch_says(checkpoint, *inputs: np.ndarray, direction=None, **named: np.ndarray) -> np.ndarray:
    generator = load_trained(checkpoint, direction=direction).generator
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in named.items()}
        return generator(*map(torch.from_numpy, inputs), **tensors).numpy()


def picture(channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (1, channels, 32, 32)).astype(np.float32)


def label_maps(seed: int, side: int = 32) -> dict[str, np.ndarray]:
    """Of noise: ids of instances that are equal in 8 bits, and such as fit neither 16 bits nor half precision."""
    rng = np.random.default_rng(seed)
    ids = np.asarray([7, 7 + 256, 26001, 26001 + 256, 7 + 65536, 2049, 2048], np.int32)
    labels = rng.integers(0, CLASSES, (1, 1, side, side), dtype=np.int32)
    return {"labels": labels, "instances": rng.choice(ids, labels.shape)}


def assert_close(one, other):
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


# pictures


def test_both_directions_of_a_cyclegan(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("cyclegan")
    outputs = {}
    for direction in ("AtoB", "BtoA"):
        path = tmp_path / f"{direction}.onnx"
        card = export(checkpoint, path, "--direction", direction)
        outputs[direction] = onnx_says(path, {"image": picture(3)})

        assert (card.direction, card.model_type) == (direction, "cyclegan")
        assert_close(outputs[direction], torch_says(checkpoint, picture(3), direction=direction))

    assert np.abs(outputs["AtoB"] - outputs["BtoA"]).max() > 0.01
    assert card_in(tmp_path / "AtoB.onnx").parity[0].pictures > 0


def test_without_a_direction_a_cyclegan_goes_that_of_its_training(checkpoint_of, tmp_path):
    assert export(checkpoint_of("cyclegan"), tmp_path / "model.onnx").direction == "AtoB"


@pytest.mark.parametrize(("direction", "given", "returned"), [("AtoB", 1, 3), ("BtoA", 3, 1)])
def test_a_cyclegan_between_grey_and_colour(checkpoint_of, tmp_path, direction, given, returned):
    checkpoint = checkpoint_of("cyclegan_1_to_3")

    card = export(checkpoint, tmp_path / "model.onnx", "--direction", direction)

    output = onnx_says(tmp_path / "model.onnx", {"image": picture(given)})
    assert (card.input.channels, card.output.channels, output.shape[1]) == (given, returned, returned)
    assert_close(output, torch_says(checkpoint, picture(given), direction=direction))


def test_a_model_of_one_direction_has_no_other(checkpoint_of, tmp_path):
    finished = here("i2i-export", checkpoint_of("grey"), "-o", tmp_path / "model.onnx", "--direction", "BtoA")

    assert finished.returncode == 2
    assert "--direction BtoA" in the_error_line(finished)
    assert "has learnt AtoB only" in the_error_line(finished)


def test_pictures_of_five_channels_are_proven_on_the_checkpoints_examples(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("five_channels")

    card = export(checkpoint, tmp_path / "model.onnx")

    assert (card.input.channels, card.input.colour, card.export.graph_io) == (5, "MULTI", "float")
    assert card.parity[0].pictures == 3
    assert_close(onnx_says(tmp_path / "model.onnx", {"image": picture(5)}), torch_says(checkpoint, picture(5)))


def test_pictures_of_five_channels_are_not_of_eight_bits(checkpoint_of, tmp_path):
    finished = here("i2i-export", checkpoint_of("five_channels"), "-o", tmp_path / "model.onnx", "--io", "uint8")

    assert finished.returncode == 2
    assert "--io uint8" in the_error_line(finished)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_grey_pictures(checkpoint_of, tmp_path, graph_io):
    checkpoint = checkpoint_of("grey")

    export(checkpoint, tmp_path / "model.onnx", "--io", graph_io)

    grey = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), dtype=np.uint8)
    tensor = grey.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    wanted = torch_says(checkpoint, tensor)
    if graph_io == "float":
        assert_close(onnx_says(tmp_path / "model.onnx", {"image": tensor}), wanted)
    else:
        output = onnx_says(tmp_path / "model.onnx", {"image": grey}).astype(float)
        assert output.shape == (1, 32, 32, 1)
        assert np.abs(output - ((wanted + 1) * 127.5).transpose(0, 2, 3, 1)).max() <= 1


# label maps


@pytest.mark.parametrize("name", ["global", "local"])
def test_label_maps_instances_and_a_style_to_choose(checkpoint_of, tmp_path, name):
    checkpoint = checkpoint_of(name)

    card = export(checkpoint, tmp_path / "model.onnx")

    assert (card.generator.name, card.export.style) == (name, None)
    assert (card.labels.count, card.labels.instance_edges, card.labels.styles) == (CLASSES, True, 3)
    side = card.training.size[0]
    outputs = []
    for style in range(3):
        choice = {"style": np.asarray([style])}
        maps = label_maps(style, side) | choice
        assert_close(onnx_says(tmp_path / "model.onnx", maps), torch_says(checkpoint, **maps))
        outputs.append(onnx_says(tmp_path / "model.onnx", label_maps(9, side) | choice))
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["global", "local"])
def test_a_style_that_is_built_in(checkpoint_of, tmp_path, name):
    checkpoint = checkpoint_of(name)
    for style in (0, 2):
        card = export(checkpoint, tmp_path / f"{style}.onnx", "--style", style)

        assert (card.export.style, card.labels.styles) == (style, 3)
        maps = label_maps(0, card.training.size[0])
        output = onnx_says(tmp_path / f"{style}.onnx", maps)
        assert_close(output, torch_says(checkpoint, **maps, style=np.asarray([style])))


def test_edges_tell_ids_apart_that_are_equal_in_their_lower_bits(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("global")
    export(checkpoint, tmp_path / "model.onnx", "--style", 0)
    labels, plain = np.zeros((1, 1, 32, 32), np.int32), np.full((1, 1, 32, 32), 7, np.int32)
    for step in (1, 256, 65536):
        divided = plain.copy()
        divided[..., 16:] += step
        outputs = [onnx_says(tmp_path / "model.onnx", {"labels": labels, "instances": i}) for i in (plain, divided)]
        assert np.abs(outputs[0] - outputs[1]).max() > 1e-4, step


@pytest.mark.parametrize("style", [None, 1])
def test_styles_without_instance_maps(checkpoint_of, tmp_path, style):
    checkpoint = checkpoint_of("no_instances")

    export(checkpoint, tmp_path / "model.onnx", *(() if style is None else ("--style", style)))

    labels = {"labels": label_maps(0)["labels"]}
    for chosen in (0, 1) if style is None else (style,):
        choice = {"style": np.asarray([chosen])}
        output = onnx_says(tmp_path / "model.onnx", labels | (choice if style is None else {}))
        assert_close(output, torch_says(checkpoint, **labels, **choice))


def test_instances_without_styles(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("no_styles")

    card = export(checkpoint, tmp_path / "model.onnx")

    assert card.labels.styles == 0
    assert_close(onnx_says(tmp_path / "model.onnx", label_maps(0)), torch_says(checkpoint, **label_maps(0)))


def test_label_maps_of_a_pix2pix(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("pix2pix_labels")

    export(checkpoint, tmp_path / "model.onnx")

    assert_close(onnx_says(tmp_path / "model.onnx", label_maps(0)), torch_says(checkpoint, **label_maps(0)))


def test_label_maps_at_another_size_than_the_trainings(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("global")

    card = export(checkpoint, tmp_path / "model.onnx", "--size", "32x64")

    assert (card.size.height, card.size.width) == (32, 64)
    maps = {name: np.concatenate((its, its[..., ::-1]), 3) for name, its in label_maps(0).items()}
    maps["style"] = np.asarray([1])
    assert_close(onnx_says(tmp_path / "model.onnx", maps), torch_says(checkpoint, **maps))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("global", ("--style", 9), "--style 9: this model has styles 0 to 2"),
        ("global", ("--style", 3), "--style 3: this model has styles 0 to 2"),
        ("global", ("--style", -1), "--style -1: this model has styles 0 to 2"),
        ("no_styles", ("--style", 0), "--style 0: this model has no styles"),
        ("grey", ("--style", 0), "--style 0: this model has no styles"),
        ("global", ("--io", "uint8"), "--io uint8: a label map enters as it is; expected --io float"),
        ("global", ("--pictures", "."), "--pictures: expected a model of grey or colour pictures"),
        ("local", ("--size", 36), "--size 36x36: local takes multiples of 8"),
    ],
)
def test_what_a_model_does_not_have_is_refused_in_one_line(checkpoint_of, tmp_path, name, arguments, message):
    finished = here("i2i-export", checkpoint_of(name), "-o", tmp_path / "model.onnx", *arguments)

    assert finished.returncode == 2
    assert message in the_error_line(finished)
    assert list(tmp_path.iterdir()) == []
