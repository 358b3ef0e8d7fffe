"""i2i-eval: figures of checkpoints and engines on held-out pictures."""

from __future__ import annotations

import hashlib
import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
import torch
from commands import here, run, the_error_line
from distances import frechet, kernel_distance
from drawings import drawing, outlines, write_labelled, write_pairs
from torch import nn

from i2i_runtime.engines.open import open_engine
from i2i_trainer.config import RunConfig
from i2i_trainer.loop import train
from i2i_trainer.models import config_type
from i2i_trainer.trained import load_trained

SIDE = 32
# With ema 0 and a large rate, weights, and so styles, are far from those of a fresh network after two steps.
RUN = {"size": (SIDE, SIDE), "steps": 2, "device": "cpu", "sample_every": 100, "ema": 0.0, "lr": 0.01}
GREY_LEVEL = 2 / 255


def trained(folder, model_type, config, **settings):
    settings = {**RUN, "data": str(folder / "data"), "out": str(folder / "run"), **settings}
    train(model_type, RunConfig(**settings), config_type(model_type)(**config), resume=None)
    return folder / "run" / "last.pt"


def exported(checkpoint, name, *arguments):
    """An engine beside its checkpoint, made when it is first asked for."""
    path = checkpoint.with_name(name)
    if not path.exists():
        finished = here("i2i-export", checkpoint, "-o", path, *arguments)
        assert finished.returncode == 0, finished.stderr
    return path


def data_of(model):
    """A model here lies in RUN beside its data."""
    return model.parent.parent / "data"


def evaluated(model, *arguments, data=None):
    """What `--json` says."""
    target = model.with_name("figures.json")
    finished = here("i2i-eval", model, "--data", data or data_of(model), "--json", target, *arguments)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(target.read_text())
    target.unlink()
    return figures


def refused(*arguments):
    finished = here("i2i-eval", *arguments)
    assert finished.stdout == ""
    return finished.returncode, the_error_line(finished)


@pytest.fixture(scope="module")
def pix2pix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pix2pix")
    write_pairs(folder / "data" / "train", 2, SIDE, SIDE)
    write_pairs(folder / "data" / "val", 1, SIDE, SIDE, first_seed=50)
    write_pairs(folder / "data" / "test", 3, SIDE, SIDE, first_seed=100)
    return trained(folder, "pix2pix", {"ngf": 2, "ndf": 2})


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grey")
    for part in ("train", "test"):
        write_pairs(folder / "data" / part, 2, SIDE, SIDE)
    return trained(folder, "pix2pix", {"ngf": 2, "ndf": 2}, input_channels=1, output_channels=1)


@pytest.fixture(scope="module")
def cyclegan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cyclegan")
    for part in ("trainA", "trainB", "testA", "testB"):
        (folder / "data" / part).mkdir(parents=True)
        for number in range(2):
            image = drawing(number + 10 * len(part) + 100 * (part[-1] == "B"), SIDE, SIDE)
            image = outlines(image) if part.endswith("A") else image
            cv2.imwrite(str(folder / "data" / part / f"{number}.png"), image)
    return trained(folder, "cyclegan", {"ngf": 2, "ndf": 2, "generator": "resnet_1blocks"})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """With instance maps and three styles."""
    folder = tmp_path_factory.mktemp("labelled")
    write_labelled(folder / "data", "train", 3, SIDE, SIDE)
    write_labelled(folder / "data", "test", 2, SIDE, SIDE, first_seed=100)
    hd = {"ngf": 4, "ndf": 2, "n_downsampling": 2, "n_blocks": 1, "num_D": 1, "n_layers": 1}
    return trained(folder, "pix2pixhd", {**hd, "styles": 3}, label_nc=4)


def tensor_of(image) -> np.ndarray:
    """(h, w, 3) uint8 BGR to (1, 3, h, w) in [-1, 1], by arithmetic of this test's own."""
    return (image[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1)[None]


def pairs_in(folder) -> list[tuple[np.ndarray, np.ndarray]]:
    both = [cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))]
    assert both
    return [(tensor_of(image[:, :SIDE]), tensor_of(image[:, SIDE:])) for image in both]


def translate(checkpoint, *inputs: np.ndarray, direction=None, **named) -> np.ndarray:
    generator = load_trained(checkpoint, direction=direction).generator
    with torch.no_grad():
        return generator(*map(torch.from_numpy, inputs), **named).numpy()


def l1_and_psnr(outputs, targets) -> dict[str, float]:
    differences = [a.astype(np.float64) - b.astype(np.float64) for a, b in zip(outputs, targets, strict=True)]
    return {
        "L1": np.mean([np.abs(difference).mean() for difference in differences]),
        "PSNR": np.mean([10 * np.log10(4 / np.square(difference).mean()) for difference in differences]),
    }


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Of two (h, w) pictures in [-1, 1]: Wang et al. 2004, the picture reflected beyond its border."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def blurred(picture: np.ndarray) -> np.ndarray:
        patches = np.lib.stride_tricks.sliding_window_view(np.pad(picture, 5, mode="reflect"), (11, 11))
        return (patches * window).sum((2, 3))

    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y, c1, c2 = blurred(x), blurred(y), 0.02**2, 0.06**2
    variances = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


# pairs


def test_figures_of_pairs_are_those_of_numpy(pix2pix):
    pairs = pairs_in(data_of(pix2pix) / "test")
    outputs = [translate(pix2pix, given) for given, _ in pairs]

    figures = evaluated(pix2pix)

    wanted = l1_and_psnr(outputs, [target for _, target in pairs])
    assert figures["L1"] == pytest.approx(wanted["L1"], abs=1e-6)
    assert figures["PSNR"] == pytest.approx(wanted["PSNR"], abs=1e-5)
    planes = [
        ssim(x, y) for output, (_, target) in zip(outputs, pairs, strict=True)
        for x, y in zip(output[0], target[0], strict=True)
    ]  # fmt: skip
    assert figures["SSIM"] == pytest.approx(np.mean(planes), abs=1e-4)


def test_the_result_says_what_was_measured(pix2pix):
    figures = evaluated(pix2pix)

    assert list(figures) == ["model", "data", "pictures", "size", "direction", "L1", "PSNR", "SSIM", "features"]
    assert (figures["model"], figures["data"], figures["pictures"]) == ("last.pt", "data", 3)
    assert (figures["size"], figures["direction"], figures["features"]) == ([SIDE, SIDE], "AtoB", None)


def test_the_real_command_shows_the_figures_and_how_to_get_more(pix2pix, tmp_path):
    target = tmp_path / "new" / "figures.json"
    finished = run("i2i-eval", pix2pix, "--data", data_of(pix2pix), "--json", target)

    figures = json.loads(target.read_text())
    assert finished.returncode == 0, finished.stderr
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in finished.stdout.splitlines()[3:]
            if "│" in line}  # fmt: skip
    assert rows == {
        "L1 (of [-1, 1])": f"{figures['L1']:.4f}",
        "PSNR (dB)": f"{figures['PSNR']:.4f}",
        "SSIM": f"{figures['SSIM']:.4f}",
    }
    assert finished.stderr.startswith("FID and KID: not measured. They need a TorchScript network: download inception")
    assert len(finished.stderr.splitlines()) == 1


def test_the_split_and_the_number_of_pictures_are_the_users_choice(pix2pix):
    (given, target), *_ = pairs_in(data_of(pix2pix) / "val")

    val, train_part = evaluated(pix2pix, "--split", "val"), evaluated(pix2pix, "--split", "train", "--pictures", 9)
    one = evaluated(pix2pix, "--pictures", 1)

    assert (val["pictures"], train_part["pictures"], one["pictures"]) == (1, 2, 1)
    assert val["L1"] == pytest.approx(l1_and_psnr([translate(pix2pix, given)], [target])["L1"], abs=1e-6)
    first = pairs_in(data_of(pix2pix) / "test")[0]
    assert one["L1"] == pytest.approx(l1_and_psnr([translate(pix2pix, first[0])], [first[1]])["L1"], abs=1e-6)


def test_without_test_pictures_it_takes_those_of_validation(pix2pix, tmp_path):
    shutil.copytree(data_of(pix2pix) / "val", tmp_path / "data" / "val")

    assert evaluated(pix2pix, data=tmp_path / "data") == evaluated(pix2pix, "--split", "val")


def test_another_size_than_the_trainings(pix2pix):
    figures = evaluated(pix2pix, "--size", "64x32")

    resized = [
        [tensor_of(cv2.resize(cv2.imread(str(path))[:, half], (32, 64), interpolation=cv2.INTER_CUBIC))
         for half in (slice(SIDE), slice(SIDE, None))]
        for path in sorted((data_of(pix2pix) / "test").glob("*.png"))
    ]  # fmt: skip
    wanted = l1_and_psnr([translate(pix2pix, given) for given, _ in resized], [target for _, target in resized])
    assert figures["size"] == [64, 32]
    assert figures["L1"] == pytest.approx(wanted["L1"], abs=1e-6)


def test_a_float_engine_has_the_checkpoints_figures(pix2pix):
    engine, checkpoint = evaluated(exported(pix2pix, "float.onnx")), evaluated(pix2pix)

    assert engine.keys() == checkpoint.keys()
    assert engine["model"] == "float.onnx"
    for name in ("L1", "SSIM"):
        assert engine[name] == pytest.approx(checkpoint[name], abs=1e-5)
    assert engine["PSNR"] == pytest.approx(checkpoint["PSNR"], abs=1e-3)


@pytest.mark.parametrize("model", ["pix2pix", "grey"])
def test_a_uint8_engine_has_the_checkpoints_figures_to_a_grey_level(model, request):
    checkpoint = request.getfixturevalue(model)

    engine = evaluated(exported(checkpoint, "uint8.onnx", "--io", "uint8"))

    wanted = evaluated(checkpoint)
    assert engine["L1"] == pytest.approx(wanted["L1"], abs=GREY_LEVEL)
    assert engine["L1"] != wanted["L1"]
    assert engine["PSNR"] == pytest.approx(wanted["PSNR"], abs=0.1)
    assert engine["SSIM"] == pytest.approx(wanted["SSIM"], abs=0.01)


# two domains


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_the_cycle_of_a_cyclegan_is_one_generator_after_the_other(cyclegan, direction):
    back = {"AtoB": "BtoA", "BtoA": "AtoB"}[direction]
    pictures = sorted((data_of(cyclegan) / f"test{direction[0]}").glob("*.png"))
    errors = []
    for path in pictures:
        given = tensor_of(cv2.imread(str(path)))
        again = translate(cyclegan, translate(cyclegan, given, direction=direction), direction=back)
        errors.append(np.abs(again.astype(np.float64) - given).mean())

    figures = evaluated(cyclegan, "--direction", direction)

    assert (figures["direction"], figures["pictures"]) == (direction, 2)
    assert figures["cycle_L1"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert "L1" not in figures  # there are no pairs
    if direction == "AtoB":
        assert figures == evaluated(cyclegan)


def test_the_two_directions_differ(cyclegan):
    there, back = (evaluated(cyclegan, "--direction", direction)["cycle_L1"] for direction in ("AtoB", "BtoA"))

    assert there != pytest.approx(back, abs=1e-6)


def test_an_engine_of_a_cyclegan_knows_one_direction_and_no_cycle(cyclegan, features):
    engine = exported(cyclegan, "BtoA.onnx", "--direction", "BtoA")

    code, line = refused(engine, "--data", data_of(cyclegan))
    assert (code, "nothing to measure without pairs and a way back; give --features" in line) == (2, True)
    its, checkpoints = (
        evaluated(engine, "--features", features),
        evaluated(cyclegan, "--direction", "BtoA", "--features", features),
    )
    assert its["direction"] == "BtoA"
    assert its["FID"] == pytest.approx(checkpoints["FID"], rel=1e-3)
    assert its["KID"] == pytest.approx(checkpoints["KID"], rel=1e-3)

    code, line = refused(engine, "--data", data_of(cyclegan), "--direction", "AtoB")
    assert (code, "translates BtoA; export the other direction" in line) == (2, True)


# label maps


@pytest.mark.parametrize("style", [None, 0, 2])
def test_figures_of_label_maps_with_instances_and_a_style(labelled, style):
    data = data_of(labelled)
    outputs, targets, chosen = [], [], torch.tensor([style or 0])
    for path in sorted((data / "test_img").glob("*.png")):
        name = path.name.removesuffix("_leftImg8bit.png")
        maps = [
            cv2.imread(str(data / f"test_{part}" / f"{name}_{ending}.png"), cv2.IMREAD_UNCHANGED)[None, None]
            for part, ending in (("label", "labelIds"), ("inst", "instanceIds"))
        ]
        outputs.append(translate(labelled, *(m.astype(np.int32) for m in maps), style=chosen))
        targets.append(tensor_of(cv2.imread(str(path))))
    wanted = l1_and_psnr(outputs, targets)
    choice = () if style is None else ("--style", style)

    checkpoint, engine = (evaluated(model, *choice) for model in (labelled, exported(labelled, "styles.onnx")))

    assert checkpoint["pictures"] == 2
    assert checkpoint["L1"] == pytest.approx(wanted["L1"], abs=1e-6)
    assert checkpoint["PSNR"] == pytest.approx(wanted["PSNR"], abs=1e-4)
    for name in ("L1", "SSIM"):
        assert engine[name] == pytest.approx(checkpoint[name], abs=1e-5)


def test_styles_have_figures_of_their_own(labelled):
    assert evaluated(labelled, "--style", 0)["L1"] != pytest.approx(evaluated(labelled, "--style", 2)["L1"], abs=1e-5)


def test_an_engine_with_a_style_built_in_is_measured_with_that_one(labelled):
    engine = exported(labelled, "style2.onnx", "--style", 2)

    figures = evaluated(engine)

    assert figures["L1"] == pytest.approx(evaluated(labelled, "--style", 2)["L1"], abs=1e-5)
    assert evaluated(engine, "--style", 2) == figures
    code, line = refused(engine, "--data", data_of(labelled), "--style", 0)
    assert code == 2
    assert "--style 0" in line
    assert "was exported with --style 2" in line


# features


class Quarters(nn.Module):
    """The mean of each colour, in the left and in the right half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[3] // 2
        y = x.float() / 64
        return torch.cat([y[:, :, :, :half].mean((2, 3)), y[:, :, :, half:].mean((2, 3))], 1)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "tiny.pt"
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.script(Quarters()).save(str(path))
    return path


def features_of(images: list[np.ndarray]) -> np.ndarray:
    levels = np.rint((np.concatenate(images).astype(np.float64).clip(-1, 1) + 1) * 127.5) / 64
    half = levels.shape[3] // 2
    return np.concatenate([levels[..., :half].mean((2, 3)), levels[..., half:].mean((2, 3))], 1)


def test_a_feature_network_gives_fid_and_kid_and_is_named(pix2pix, features, tmp_path):
    target = tmp_path / "figures.json"
    finished = here("i2i-eval", pix2pix, "--data", data_of(pix2pix), "--features", features, "--json", target)

    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    digest = hashlib.sha256(features.read_bytes()).hexdigest()[:12]
    description = f"tiny.pt (sha256 {digest}), 6 features, resized by the network itself"
    assert f"features: {description}" in finished.stdout.splitlines()
    figures = json.loads(target.read_text())
    assert figures["features"] == description
    pairs = pairs_in(data_of(pix2pix) / "test")
    real = features_of([target for _, target in pairs])
    fake = features_of([translate(pix2pix, given) for given, _ in pairs])
    # An output that lies between two grey levels may be rounded to either.
    assert figures["FID"] == pytest.approx(frechet(real, fake), rel=2e-3, abs=1e-3)
    assert figures["KID"] == pytest.approx(kernel_distance(real, fake), rel=2e-3)


def test_one_picture_is_too_few_for_fid_and_that_is_said(pix2pix, features):
    finished = here("i2i-eval", pix2pix, "--data", data_of(pix2pix), "--features", features, "--pictures", 1)

    assert finished.returncode == 0, finished.stderr
    assert "FID" not in finished.stdout
    assert finished.stderr == "FID and KID: not measured. They need two pictures or more, found 1.\n"


# another model's outputs as targets


def test_a_model_is_measured_against_another_ones_outputs(cyclegan):
    other = exported(cyclegan, "other.onnx", "--direction", "BtoA", "--int8", "--min-psnr", 1)
    inputs = [tensor_of(cv2.imread(str(path))) for path in sorted((data_of(cyclegan) / "testB").glob("*.png"))]

    figures = evaluated(other, "--teacher", cyclegan)

    engine = open_engine(other)
    wanted = l1_and_psnr(
        [engine.run(given) for given in inputs], [translate(cyclegan, given, direction="BtoA") for given in inputs]
    )
    assert figures["L1_to_teacher"] == pytest.approx(wanted["L1"], abs=1e-6)
    assert figures["PSNR_to_teacher"] == pytest.approx(wanted["PSNR"], abs=1e-4)
    assert figures["pictures"] == len(inputs)
    assert 0 < figures["SSIM_to_teacher"] < 1


def test_pairs_have_both_figures(pix2pix):
    figures = evaluated(pix2pix, "--teacher", pix2pix)

    assert figures["L1"] == evaluated(pix2pix)["L1"] > 0
    assert figures["L1_to_teacher"] == 0


@pytest.mark.parametrize(("with_teacher", "columns"), [(True, 4), (False, 3)])
def test_a_strip_shows_input_output_teacher_and_target(pix2pix, tmp_path, with_teacher, columns):
    evaluated(pix2pix, "--strip", tmp_path / "new" / "strip.png", *(["--teacher", pix2pix] if with_teacher else []))

    strip = cv2.imread(str(tmp_path / "new" / "strip.png"))
    assert strip.shape[1] == columns * (SIDE + 4) - 4
    pictures = [cv2.imread(str(path)) for path in sorted((data_of(pix2pix) / "test").glob("*.png"))]
    np.testing.assert_array_equal(strip[24 : 24 + SIDE, :SIDE], pictures[0][:, :SIDE])
    np.testing.assert_array_equal(strip[24 : 24 + SIDE, -SIDE:], pictures[0][:, SIDE:])


def test_a_teacher_of_other_pictures_is_refused(pix2pix, grey):
    code, line = refused(pix2pix, "--data", data_of(pix2pix), "--teacher", grey)

    assert (code, f"--teacher {grey}: expected a model of the same pictures" in line) == (2, True)


# errors


def test_a_missing_split(pix2pix, tmp_path):
    assert refused(pix2pix, "--data", data_of(pix2pix), "--split", "holidays") == (
        3, f"error: {data_of(pix2pix)}: expected pictures of holidays, found none; choose with --split",
    )  # fmt: skip
    shutil.copytree(data_of(pix2pix) / "train", tmp_path / "train")
    code, line = refused(pix2pix, "--data", tmp_path)
    assert (code, "expected pictures of test or val, found none" in line) == (3, True)


def test_a_missing_data_folder(pix2pix, tmp_path):
    code, line = refused(pix2pix, "--data", tmp_path / "nowhere")

    assert (code, "nowhere: no such data folder" in line) == (3, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pt", "no such checkpoint"),
        ("none.onnx", "no such engine file"),
        ("model.txt", "expected an .onnx, .plan, .engine or .xml file, found .txt"),
        ("broken.pt", "broken.pt: expected tensors and JSON only"),
        ("broken.onnx", "broken.onnx"),
    ],
)
def test_a_file_that_is_no_model(tmp_path, pix2pix, name, message):
    if "none" not in name:
        (tmp_path / name).write_bytes(b"neither this nor that")

    code, line = refused(tmp_path / name, "--data", data_of(pix2pix))

    assert (code, message in line) == (4, True), line


def test_an_engine_without_a_card(pix2pix, tmp_path):
    model = onnx.load(exported(pix2pix, "float.onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")

    code, line = refused(tmp_path / "plain.onnx", "--data", data_of(pix2pix))

    assert (code, "plain.onnx: it carries no card" in line) == (4, True)


def test_a_feature_network_that_is_not_there(pix2pix, tmp_path):
    code, line = refused(pix2pix, "--data", data_of(pix2pix), "--features", tmp_path / "none.pt")

    assert (code, "none.pt: no such file" in line) == (4, True)


def test_styles_out_of_range(labelled, pix2pix):
    for model in (labelled, exported(labelled, "styles.onnx")):
        code, line = refused(model, "--data", data_of(labelled), "--style", 3)
        assert (code, "--style 3: this model has styles 0 to 2" in line) == (2, True)
    for style in (0, 1):
        code, line = refused(pix2pix, "--data", data_of(pix2pix), "--style", style)
        assert (code, f"--style {style}: this model has no styles" in line) == (2, True)
    code, line = refused(labelled, "--data", data_of(labelled), "--style", -1)
    assert (code, "--style" in line) == (2, True)


def test_a_direction_that_was_not_learnt(pix2pix):
    code, line = refused(pix2pix, "--data", data_of(pix2pix), "--direction", "BtoA")

    assert (code, "--direction BtoA" in line, "has learnt AtoB only" in line) == (2, True, True)


def test_sizes_that_a_model_does_not_take(pix2pix):
    code, line = refused(pix2pix, "--data", data_of(pix2pix), "--size", 40)
    assert (code, "--size 40x40" in line, "multiples of 32" in line) == (2, True, True)

    code, line = refused(exported(pix2pix, "float.onnx"), "--data", data_of(pix2pix), "--size", 64)
    assert (code, "takes 32x32 only" in line) == (2, True)


def test_label_ids_out_of_range(labelled, tmp_path):
    write_labelled(tmp_path, "test", 2, SIDE, SIDE)
    path = tmp_path / "test_label" / "town_000001_labelIds.png"
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = 9
    cv2.imwrite(str(path), labels)

    code, line = refused(labelled, "--data", tmp_path)

    assert (code, "town_000001_labelIds.png: expected label ids 0 to 3, found 9" in line) == (3, True)


def test_figures_that_cannot_be_written(pix2pix, tmp_path):
    (tmp_path / "file").write_text("in the way")

    finished = here("i2i-eval", pix2pix, "--data", data_of(pix2pix), "--json", tmp_path / "file" / "figures.json")

    assert finished.returncode == 5
    assert "figures.json: cannot be written" in the_error_line(finished)
