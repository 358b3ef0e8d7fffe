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
from i2i_trainer.config import RunConfig
from i2i_trainer.data.batches import Order, samples, steps_per_epoch
from i2i_trainer.data.dataset import PairedDataset, open_data, open_split
from i2i_trainer.data.paired import Channels, find_pairs
from i2i_trainer.data.transforms import Preprocess, load_size_for, to_image, to_tensor

PLAIN = Preprocess(size=(64, 64), load_size=(64, 64), flip=False)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def dataset_of(root: Path, preprocess: Preprocess = PLAIN, **settings) -> PairedDataset:
    return PairedDataset(find_pairs(root, ["train"]), Channels(), "AtoB", preprocess, **settings)


def opened(root: Path, **settings):
    return open_split(RunConfig(data=str(root), **settings), "paired", PLAIN, ["train"])


def as_image(tensor: torch.Tensor) -> np.ndarray:
    return to_image(tensor)


@pytest.mark.parametrize(("direction", "first"), [("AtoB", 1), ("BtoA", 2)])
def test_side_by_side_pictures_are_split_in_the_direction_asked_for(tmp_path, direction, first):
    halves = {1: drawing(1), 2: drawing(2)}
    write(tmp_path / "train" / "x.png", np.hstack((halves[1], halves[2])))

    dataset = PairedDataset(find_pairs(tmp_path, ["train"]), Channels(), direction, PLAIN)
    sample = dataset.fixed(0)

    assert np.array_equal(as_image(sample["input"]), halves[first])
    assert np.array_equal(as_image(sample["target"]), halves[3 - first])


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
        pair.read(Channels())


def test_an_odd_width_cannot_be_two_halves(tmp_path):
    write(tmp_path / "train" / "odd.png", drawing(1, 32, 65))
    (pair,) = find_pairs(tmp_path, ["train"])

    with pytest.raises(SourceError, match="odd width of 65"):
        pair.read(Channels())


def test_a_folder_without_pictures_is_refused_with_the_layouts_that_work(tmp_path):
    with pytest.raises(SourceError, match="no training pictures; expected DIR/train"):
        open_data(RunConfig(data=str(tmp_path)), "paired", PLAIN)


@pytest.mark.parametrize(
    ("width", "content", "problem"),
    [(128, b"text", "not a picture"), (65, None, "odd width of 65"), (128, b"", "the file is empty")],
)
def test_what_cannot_be_used_is_found_before_the_training_begins(tmp_path, width, content, problem):
    write_pairs(tmp_path / "train", 2)
    odd = write(tmp_path / "train" / "odd.png", drawing(1, 64, width))
    if content is not None:
        odd.write_bytes(content)

    with pytest.raises(SourceError, match=rf"odd\.png: .*{problem}.*--skip-unreadable"):
        opened(tmp_path)
    assert len(opened(tmp_path, skip_unreadable=True)) == 2


@pytest.fixture
def with_a_truncated_jpeg(tmp_path):
    for number in range(3):
        write(tmp_path / "train" / f"{number}.jpg", np.hstack((drawing(number), drawing(number))))
    path = tmp_path / "train" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return tmp_path


@pytest.mark.fault(16)
def test_a_truncated_jpeg_is_found_before_the_training_begins(with_a_truncated_jpeg):
    with pytest.raises(SourceError, match=r"1\.jpg: truncated JPEG.*--skip-unreadable"):
        opened(with_a_truncated_jpeg)


def test_broken_pictures_can_be_left_out(with_a_truncated_jpeg):
    whole = opened(with_a_truncated_jpeg, skip_unreadable=True)

    assert len(whole) == 2
    assert np.array_equal(whole.read(1)["input"], cv2.imread(str(with_a_truncated_jpeg / "train" / "2.jpg"))[:, :64])


@given(seed=st.integers(0, 2**32), height=st.integers(40, 90), width=st.integers(40, 90), flip=st.booleans())
@settings(max_examples=30, deadline=None)
def test_both_halves_of_a_pair_get_the_same_crop_and_flip(seed, height, width, flip):
    image = drawing(seed % 100, height, width)
    preprocess = Preprocess(size=(32, 36), load_size=(40, 50), flip=flip)

    loaded = preprocess.load({"input": image, "target": image})
    sample = preprocess.random(loaded, np.random.default_rng(seed))

    assert sample["input"].shape == (3, 32, 36)
    assert torch.equal(sample["input"], sample["target"])


def test_half_of_the_images_are_mirrored():
    image = drawing(3)
    mirrored = to_tensor(image[:, ::-1])
    preprocess = Preprocess(size=(64, 64), load_size=(64, 64), flip=True)

    drawn = (preprocess.random({"input": image}, np.random.default_rng(n))["input"] for n in range(200))
    count = sum(torch.equal(tensor, mirrored) for tensor in drawn)

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
    preprocess = Preprocess(size=(64, 64), load_size=(90, 90), flip=True)

    one, another = (dataset_of(tmp_path, preprocess, seed=5) for _ in range(2))

    assert torch.equal(one[3, 0]["input"], another[3, 0]["input"])
    assert not torch.equal(one[3, 0]["input"], one[4, 0]["input"])


@given(n=st.integers(1, 40), batch=st.integers(1, 7), seed=st.integers(0, 99), epochs=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_every_epoch_shows_every_picture_and_fills_its_last_batch_from_its_beginning(n, batch, seed, epochs):
    steps = steps_per_epoch(n, batch)
    keys = list(Order(n, batch, seed, range(epochs * steps)))

    assert all(len(of_step) == batch for of_step in keys)
    for epoch in range(epochs):
        shown = [index for of_step in keys[epoch * steps : (epoch + 1) * steps] for _, index in of_step]
        assert sorted(shown[:n]) == list(range(n))
        assert shown[n:] == [shown[i % n] for i in range(len(shown) - n)]


@given(n=st.integers(1, 30), batch=st.integers(1, 5), resumed_at=st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_a_resumed_order_goes_on_where_the_unbroken_one_was(n, batch, resumed_at):
    unbroken = list(Order(n, batch, 1, range(60)))

    assert list(Order(n, batch, 1, range(resumed_at, 60))) == unbroken[resumed_at:]


@given(n=st.integers(1, 30), batch=st.integers(1, 4), world_size=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_processes_together_see_what_one_with_the_whole_batch_sees(n, batch, world_size):
    alone = list(Order(n, batch * world_size, 3, range(12)))
    shares = [list(Order(n, batch, 3, range(12), rank=r, world_size=world_size)) for r in range(world_size)]

    assert [list(chain.from_iterable(step)) for step in zip(*shares, strict=True)] == alone


def test_epochs_differ_in_their_order():
    order = list(Order(50, 50, 0, range(2)))

    assert [index for _, index in order[0]] != [index for _, index in order[1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_whatever_the_number_of_workers(tmp_path, workers):
    write_pairs(tmp_path / "train", 5)
    order = Order(5, 2, 0, range(3))

    loaded = list(samples(dataset_of(tmp_path), order, workers, pin_memory=False))

    expected = [dataset_of(tmp_path)[key]["input"] for key in chain.from_iterable(order)]
    assert torch.equal(torch.cat([sample["input"] for sample in loaded]), torch.stack(expected))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_during_training_is_one_line_from_any_process(tmp_path, workers):
    write_pairs(tmp_path / "train", 1)
    dataset = dataset_of(tmp_path)
    (tmp_path / "train" / "0.png").write_bytes(b"gone")

    with pytest.raises(SourceError, match=r"^[^\n]*0\.png: not a picture[^\n]*$"):
        list(samples(dataset, Order(1, 1, 0, range(1)), workers, pin_memory=False))


def test_decoded_pictures_are_kept_as_long_as_there_is_room(tmp_path):
    write_pairs(tmp_path / "train", 3)
    size = 2 * 64 * 64 * 3
    dataset = dataset_of(tmp_path, cache_bytes=2 * size)
    first = [dataset[0, index] for index in range(3)]
    for path in (tmp_path / "train").iterdir():
        path.write_bytes(b"gone")

    again = [dataset[0, index] for index in range(3)]

    assert all(torch.equal(first[i]["target"], again[i]["target"]) for i in range(2))
    assert isinstance(again[2], SourceError)


def test_each_worker_may_keep_its_share_only(tmp_path):
    write_pairs(tmp_path / "train", 1)
    dataset = dataset_of(tmp_path, cache_bytes=2 * 64 * 64 * 3)
    dataset.share_cache(2)
    dataset[0, 0]
    (tmp_path / "train" / "0.png").write_bytes(b"gone")

    assert isinstance(dataset[0, 0], SourceError)
