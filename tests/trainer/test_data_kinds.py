"""Unpaired pictures, label maps, and pictures of other channels and depths."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawings import drawing, write_labelled, write_pairs

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.image import read_ids
from i2i_trainer.config import RunConfig
from i2i_trainer.data.dataset import open_data, open_split
from i2i_trainer.data.rasters import read_raster
from i2i_trainer.data.transforms import Preprocess, to_image, to_tensor

PLAIN = Preprocess(size=(64, 64), load_size=(64, 64), flip=False)


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        assert cv2.imwrite(str(path), array)
    return path


def opened(root: Path, kind: str = "paired", split: str = "train", **settings):
    return open_split(RunConfig(data=str(root), **settings), kind, PLAIN, [split])


# unpaired


@pytest.fixture
def unpaired(tmp_path):
    for folder, count in (("trainA", 3), ("trainB", 5)):
        for number in range(count):
            # Each picture one grey level, by which it is known again.
            write(tmp_path / folder / f"{number}.png", np.full((40 + number, 64, 3), 10 * number + 5, np.uint8))
    return tmp_path


def levels(dataset, epoch: int, name: str) -> list[int]:
    return [int(to_image(dataset[epoch, i][name])[0, 0, 0]) for i in range(len(dataset))]


def test_an_epoch_of_unpaired_pictures_shows_each_of_the_larger_folder_once(unpaired):
    dataset = opened(unpaired, "unpaired")

    assert len(dataset) == 5
    assert levels(dataset, 0, "target") == [5, 15, 25, 35, 45]
    assert set(levels(dataset, 0, "input")) <= {5, 15, 25}


def test_company_is_drawn_anew_in_each_epoch_and_the_same_in_every_process(unpaired):
    dataset, again = opened(unpaired, "unpaired"), opened(unpaired, "unpaired")

    epochs = [levels(dataset, epoch, "input") for epoch in range(6)]

    assert len(set(map(tuple, epochs))) > 1
    assert epochs == [levels(again, epoch, "input") for epoch in range(6)]


def test_two_domains_of_one_length_are_not_pairs(tmp_path):
    for domain in "AB":
        for number in range(4):
            write(tmp_path / f"train{domain}" / f"{number}.png", np.full((8, 8, 3), 10 * number + 5, np.uint8))
    dataset = opened(tmp_path, "unpaired")

    met = {
        pair
        for epoch in range(30)
        for pair in zip(levels(dataset, epoch, "input"), levels(dataset, epoch, "target"), strict=True)
    }

    assert len(met) == 16


def test_domains_are_swapped_with_the_direction(unpaired):
    dataset = opened(unpaired, "unpaired", direction="BtoA")

    assert levels(dataset, 0, "input") == [5, 15, 25, 35, 45]


def test_unpaired_pictures_of_a_pair_are_cropped_apart():
    rng = np.random.default_rng(0)
    preprocess = Preprocess(size=(32, 32), load_size=(64, 64), flip=False)

    first, second = (preprocess.random({"input": drawing(1)}, rng)["input"] for _ in range(2))

    assert not torch.equal(first, second)


def test_an_empty_domain_is_named(tmp_path):
    write(tmp_path / "trainA" / "0.png", drawing(0))
    (tmp_path / "trainB").mkdir()

    with pytest.raises(SourceError, match=r"trainB: expected pictures of one domain, found none"):
        opened(tmp_path, "unpaired")


def test_unpaired_training_says_which_folders_it_wants(tmp_path):
    with pytest.raises(SourceError, match="no training pictures; expected DIR/trainA and DIR/trainB"):
        open_data(RunConfig(data=str(tmp_path)), "unpaired", PLAIN)


# label maps


@pytest.fixture
def labelled(tmp_path):
    write_labelled(tmp_path, "train", 3, 64, 64)
    return tmp_path


def test_label_maps_instances_and_photographs_are_matched_without_their_endings(labelled):
    sample = opened(labelled, label_nc=4).fixed(1)

    labels = cv2.imread(str(labelled / "train_label" / "town_000001_labelIds.png"), cv2.IMREAD_UNCHANGED)
    instances = cv2.imread(str(labelled / "train_inst" / "town_000001_instanceIds.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(sample["input"][0].numpy(), labels)
    assert np.array_equal(sample["instances"][0].numpy(), instances)
    assert instances.max() > 255, "16-bit ids are the point"
    assert sample["target"].shape == (3, 64, 64)


def test_ids_are_never_mixed_when_a_map_is_resized(labelled):
    small = Preprocess(size=(23, 37), load_size=(29, 41), flip=True)
    dataset = opened(labelled, label_nc=4).at(small)

    whole = opened(labelled, label_nc=4).fixed(0)
    for epoch in range(5):
        sample = dataset[epoch, 0]
        assert set(sample["instances"].unique().tolist()) <= set(whole["instances"].unique().tolist())
        assert sample["input"].dtype == torch.int32


def test_a_label_out_of_range_names_the_file_the_id_and_the_flag(labelled):
    with pytest.raises(SourceError, match=r"_labelIds\.png: expected label ids 0 to 2, found 3 \(.*%.*--label-nc"):
        opened(labelled, label_nc=3)


def test_label_maps_without_a_number_of_classes_are_an_error_that_says_so(labelled):
    with pytest.raises(UsageError, match="holds label maps; say how many classes they have, for example --label-nc"):
        opened(labelled)


def test_missing_instance_maps_are_named_with_the_way_out(labelled):
    for path in (labelled / "train_inst").iterdir():
        path.unlink()
    (labelled / "train_inst").rmdir()

    with pytest.raises(SourceError, match=r"expected instance maps beside train_label.*--no-instances"):
        opened(labelled, label_nc=4)
    assert "instances" not in opened(labelled, label_nc=4, instances=False).fixed(0)


def test_a_map_of_another_size_than_its_photograph_is_refused(labelled):
    write(labelled / "train_inst" / "town_000001_instanceIds.png", np.zeros((10, 10), np.uint16))

    with pytest.raises(SourceError, match="one size, found 64x64 here and 10x10"):
        opened(labelled, label_nc=4)


def test_a_coloured_picture_is_no_label_map(tmp_path):
    with pytest.raises(SourceError, match="one channel of ids of 8 or 16 bits, found 3 channels"):
        read_ids(write(tmp_path / "x.png", drawing(0)))


def test_label_maps_are_always_the_input():
    with pytest.raises(UsageError, match="--direction BtoA: label maps are the input"):
        RunConfig(label_nc=4, direction="BtoA")


def test_a_map_is_shown_in_colours_one_an_id():
    shown = to_image(torch.tensor([[[0, 1, 2, 40, 1]]], dtype=torch.int32))

    colours = [tuple(pixel) for pixel in shown[0]]
    assert colours[1] == colours[4]
    assert len(set(colours)) == 4


# channels and depth


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pngs_of_one_three_and_four_channels_and_both_depths_are_read_as_they_are(tmp_path, dtype, channels):
    raster = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (9, 7, channels), dtype)
    path = write(tmp_path / "x.png", raster)

    read = read_raster(path, channels)

    assert read.dtype == dtype
    # OpenCV wrote BGRA; four channels are read in the file's order, RGBA.
    assert np.array_equal(read, raster[:, :, [2, 1, 0, 3]] if channels == 4 else raster)


def test_a_numpy_file_has_as_many_channels_as_it_likes(tmp_path):
    raster = np.random.default_rng(0).integers(0, 65536, (9, 7, 6), np.uint16)

    assert np.array_equal(read_raster(write(tmp_path / "x.npy", raster), 6), raster)


def test_the_pages_of_a_tiff_are_channels(tmp_path):
    pages = [np.full((9, 7), 100 * n, np.uint16) for n in range(5)]
    assert cv2.imwritemulti(str(tmp_path / "x.tif"), pages)

    read = read_raster(tmp_path / "x.tif", 5)

    assert read[0, 0].tolist() == [0, 100, 200, 300, 400]


def test_another_number_of_channels_is_refused_with_both_numbers(tmp_path):
    with pytest.raises(SourceError, match="expected 5 channels, found an array of 64x64x3"):
        read_raster(write(tmp_path / "x.png", drawing(0)), 5)


@pytest.mark.parametrize("content", ["floats", "pickle", "text"])
def test_numpy_files_that_are_no_pictures_are_refused(tmp_path, content):
    path = tmp_path / "x.npy"
    if content == "text":
        path.write_bytes(b"no array")
    else:
        np.save(path, np.zeros((4, 4, 2)) if content == "floats" else np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(SourceError, match=r"not a NumPy array|8 or 16 bits without sign, found float64"):
        read_raster(path, 2)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_black_is_minus_one_and_white_is_one_at_any_depth(dtype, white, channels):
    raster = np.zeros((2, 2, channels), dtype)
    raster[0] = white

    tensor = to_tensor(raster)

    assert tensor.shape == (channels, 2, 2)
    assert tensor[:, 0].unique().tolist() == [1.0]
    assert tensor[:, 1].unique().tolist() == [-1.0]


def test_sixteen_bits_keep_what_eight_would_lose():
    raster = np.array([[[1000], [1001]]], np.uint16)

    tensor = to_tensor(raster)

    assert tensor[0, 0, 1] > tensor[0, 0, 0]


def test_a_run_may_turn_five_channels_into_one(tmp_path):
    for number in range(2):
        write(tmp_path / "trainA" / f"{number}.npy", np.zeros((64, 64, 5), np.uint16))
        write(tmp_path / "trainB" / f"{number}.png", np.zeros((64, 64), np.uint8))

    sample = opened(tmp_path, input_channels=5, output_channels=1).fixed(0)

    assert (sample["input"].shape[0], sample["target"].shape[0]) == (5, 1)


def test_one_file_cannot_hold_halves_of_different_channels(tmp_path):
    write_pairs(tmp_path / "train", 1)

    with pytest.raises(SourceError, match=r"A\|B in one file have the same channels; use folders trainA and trainB"):
        opened(tmp_path, output_channels=1)


@pytest.mark.parametrize(("channels", "dtype"), [(5, np.uint8), (9, np.uint16)])
@pytest.mark.parametrize("side", [32, 80])
def test_many_channels_are_resized_as_each_alone(tmp_path, channels, dtype, side):
    plain = np.random.default_rng(0).integers(0, 256, (48, 64, channels)).astype(dtype)
    write(tmp_path / "trainA" / "0.npy", plain)
    write(tmp_path / "trainB" / "0.png", drawing(0, 48, 64))
    preprocess = Preprocess(size=(side, side), load_size=(side, side), flip=False)

    dataset = open_split(RunConfig(data=str(tmp_path), input_channels=channels), "paired", preprocess, ["train"])

    planes = [preprocess.fixed({"input": plain[:, :, i : i + 1]})["input"] for i in range(channels)]
    # OpenCV rounds a single channel and several in ways of their own: a grey level at most.
    torch.testing.assert_close(dataset.fixed(0)["input"], torch.cat(planes), rtol=0, atol=2.01 / np.iinfo(dtype).max)
