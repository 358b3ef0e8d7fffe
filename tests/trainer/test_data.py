"""Training pictures: layouts, pairs, crops, order, and what is refused."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawings import drawing, write_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_runtime.errors import SourceError
from i2i_trainer.data.batches import Order, batches, steps_per_epoch
from i2i_trainer.data.paired import PairedDataset, check_pairs, find_pairs
from i2i_trainer.data.transforms import Preprocess, load_size_for, to_image, to_tensor

PLAIN = Preprocess(size=(64, 64), load_size=(64, 64), flip=False)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def as_image(tensor: torch.Tensor) -> np.ndarray:
    return to_image(tensor)


@pytest.mark.parametrize(("direction", "first"), [("AtoB", 1), ("BtoA", 2)])
def test_side_by_side_pictures_are_split_in_the_direction_asked_for(tmp_path, direction, first):
    halves = {1: drawing(1), 2: drawing(2)}
    write(tmp_path / "train" / "x.png", np.hstack((halves[1], halves[2])))

    dataset = PairedDataset(find_pairs(tmp_path, ["train"]), PLAIN, direction, seed=0)
    source, target = dataset.fixed(0)

    assert np.array_equal(as_image(source), halves[first])
    assert np.array_equal(as_image(target), halves[3 - first])


@pytest.mark.parametrize(
    ("folder_a", "folder_b"), [("trainA", "trainB"), ("train/A", "train/B"), ("A/train", "B/train")]
)
def test_two_folders_are_matched_by_name_whatever_the_suffix(tmp_path, folder_a, folder_b):
    for name in ("one", "two"):
        write(tmp_path / folder_a / f"{name}.png", drawing(1))
        write(tmp_path / folder_b / f"{name}.jpg", drawing(2))

    pairs = find_pairs(tmp_path, ["train"])

    assert [(p.a.name, p.b.name) for p in pairs] == [("one.png", "one.jpg"), ("two.png", "two.jpg")]


def test_pictures_directly_in_the_folder_are_taken_where_there_is_no_train_folder(tmp_path):
    write_pairs(tmp_path, 3)

    assert [p.a.name for p in find_pairs(tmp_path, ["train", ""])] == ["0.png", "1.png", "2.png"]


def test_pictures_come_in_the_order_a_person_counts(tmp_path):
    write_pairs(tmp_path / "train", 12)

    assert [p.a.stem for p in find_pairs(tmp_path, ["train"])] == [str(n) for n in range(12)]


def test_pictures_without_a_partner_are_named(tmp_path):
    write(tmp_path / "trainA" / "one.png", drawing(1))
    write(tmp_path / "trainA" / "two.png", drawing(1))
    write(tmp_path / "trainB" / "one.png", drawing(2))

    with pytest.raises(SourceError, match=r"2 and 1; 1 have no partner, for example two"):
        find_pairs(tmp_path, ["train"])


def test_two_pictures_of_one_name_in_a_folder_are_refused(tmp_path):
    for name in ("one.png", "one.jpg"):
        write(tmp_path / "trainA" / name, drawing(1))
        write(tmp_path / "trainB" / name, drawing(2))

    with pytest.raises(SourceError, match=r"one picture a name, found one\.(jpg|png) and one\.(png|jpg)"):
        find_pairs(tmp_path, ["train"])


def test_a_pair_of_two_sizes_is_refused_naming_both(tmp_path):
    write(tmp_path / "trainA" / "one.png", drawing(1, 64, 64))
    write(tmp_path / "trainB" / "one.png", drawing(2, 64, 80))
    (pair,) = find_pairs(tmp_path, ["train"])

    with pytest.raises(SourceError, match=r"one size, found 64x64 here and 80x64 in .*trainB"):
        pair.read()


def test_an_odd_width_cannot_be_two_halves(tmp_path):
    write(tmp_path / "train" / "odd.png", drawing(1, 32, 65))
    (pair,) = find_pairs(tmp_path, ["train"])

    with pytest.raises(SourceError, match="odd width of 65"):
        pair.read()


def test_a_folder_without_pictures_is_refused_with_the_layouts_that_work(tmp_path):
    with pytest.raises(SourceError, match="no training pictures; expected DIR/train"):
        check_pairs(tmp_path, find_pairs(tmp_path, ["train", ""]), skip_unreadable=False)


@pytest.mark.parametrize(
    ("width", "content", "problem"),
    [(128, b"text", "not a picture"), (65, None, "odd width of 65"), (128, b"", "the file is empty")],
)
def test_what_cannot_be_used_is_found_before_the_training_begins(tmp_path, width, content, problem):
    write_pairs(tmp_path / "train", 2)
    odd = write(tmp_path / "train" / "odd.png", drawing(1, 64, width))
    if content is not None:
        odd.write_bytes(content)
    pairs = find_pairs(tmp_path, ["train"])

    with pytest.raises(SourceError, match=rf"odd\.png: .*{problem}.*--skip-unreadable"):
        check_pairs(tmp_path, pairs, skip_unreadable=False)
    assert [p.a.name for p in check_pairs(tmp_path, pairs, skip_unreadable=True)] == ["0.png", "1.png"]


@pytest.fixture
def with_a_truncated_jpeg(tmp_path):
    for number in range(3):
        write(tmp_path / "train" / f"{number}.jpg", np.hstack((drawing(number), drawing(number))))
    path = tmp_path / "train" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return tmp_path


def test_a_truncated_jpeg_is_found_before_the_training_begins(with_a_truncated_jpeg):
    pairs = find_pairs(with_a_truncated_jpeg, ["train"])

    with pytest.raises(SourceError, match=r"1\.jpg: truncated JPEG.*--skip-unreadable"):
        check_pairs(with_a_truncated_jpeg, pairs, skip_unreadable=False)


def test_broken_pictures_can_be_left_out(with_a_truncated_jpeg):
    pairs = find_pairs(with_a_truncated_jpeg, ["train"])

    whole = check_pairs(with_a_truncated_jpeg, pairs, skip_unreadable=True)

    assert [p.a.name for p in whole] == ["0.jpg", "2.jpg"]


@given(seed=st.integers(0, 2**32), height=st.integers(40, 90), width=st.integers(40, 90), flip=st.booleans())
@settings(max_examples=30, deadline=None)
def test_both_halves_of_a_pair_get_the_same_crop_and_flip(seed, height, width, flip):
    image = drawing(seed % 100, height, width)
    preprocess = Preprocess(size=(32, 36), load_size=(40, 50), flip=flip)

    first, second = preprocess.random((image, image), np.random.default_rng(seed))

    assert first.shape == (3, 32, 36)
    assert torch.equal(first, second)


def test_half_of_the_images_are_mirrored():
    image = drawing(3)
    mirrored = to_tensor(image[:, ::-1])
    preprocess = Preprocess(size=(64, 64), load_size=(64, 64), flip=True)

    count = sum(torch.equal(preprocess.random((image,), np.random.default_rng(n))[0], mirrored) for n in range(200))

    assert 70 < count < 130


def test_a_tensor_holds_rgb_from_minus_one_to_one():
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[:, :, 0] = 255

    tensor = to_tensor(blue)

    assert tensor[:, 0, 0].tolist() == [-1, -1, 1]


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_image_to_tensor_and_back_changes_nothing(seed):
    image = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)

    assert np.array_equal(to_image(to_tensor(image)), image)


def test_the_room_for_crops_is_the_papers():
    assert load_size_for((256, 256)) == (286, 286)


def test_a_picture_is_cropped_the_same_way_in_every_process_and_differently_in_every_epoch(tmp_path):
    write_pairs(tmp_path / "train", 1, 90, 90)
    pairs = find_pairs(tmp_path, ["train"])
    preprocess = Preprocess(size=(64, 64), load_size=(90, 90), flip=True)

    one, another = (PairedDataset(pairs, preprocess, "AtoB", seed=5) for _ in range(2))

    assert torch.equal(one[3, 0][0], another[3, 0][0])
    assert not torch.equal(one[3, 0][0], one[4, 0][0])


@given(n=st.integers(1, 40), batch=st.integers(1, 7), seed=st.integers(0, 99), epochs=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_every_epoch_shows_every_picture_once(n, batch, seed, epochs):
    order = Order(n, batch, seed, 0, epochs * steps_per_epoch(n, batch))

    keys = list(chain.from_iterable(order))

    assert sorted(keys) == [(epoch, index) for epoch in range(epochs) for index in range(n)]


@given(n=st.integers(1, 30), batch=st.integers(1, 5), resumed_at=st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_a_resumed_order_goes_on_where_the_unbroken_one_was(n, batch, resumed_at):
    unbroken = list(Order(n, batch, 1, 0, 60))

    assert list(Order(n, batch, 1, resumed_at, 60)) == unbroken[resumed_at:]


def test_epochs_differ_in_their_order():
    order = list(Order(50, 50, 0, 0, 2))

    assert [index for _, index in order[0]] != [index for _, index in order[1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_whatever_the_number_of_workers(tmp_path, workers):
    write_pairs(tmp_path / "train", 5)
    dataset = PairedDataset(find_pairs(tmp_path, ["train"]), PLAIN, "AtoB", seed=0)

    loaded = list(batches(dataset, Order(5, 2, 0, 0, 3), workers, torch.device("cpu")))

    expected = [dataset[key][0] for key in chain.from_iterable(Order(5, 2, 0, 0, 3))]
    assert [len(b.input) for b in loaded] == [2, 2, 1]
    assert torch.equal(torch.cat([b.input for b in loaded]), torch.stack(expected))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_during_training_is_one_line_from_any_process(tmp_path, workers):
    write_pairs(tmp_path / "train", 1)
    dataset = PairedDataset(find_pairs(tmp_path, ["train"]), PLAIN, "AtoB", seed=0)
    (tmp_path / "train" / "0.png").write_bytes(b"gone")

    with pytest.raises(SourceError, match=r"^[^\n]*0\.png: not a picture[^\n]*$"):
        list(batches(dataset, Order(1, 1, 0, 0, 1), workers, torch.device("cpu")))
