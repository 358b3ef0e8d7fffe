"""`i2i-train check-data`: what is in a folder, and everything that is wrong with it at once."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from commands import SHARED_DATA, run, the_error_line
from drawings import drawing, write_labelled, write_pairs, write_unpaired

from i2i_runtime.errors import SourceError
from i2i_trainer.data.check import check_data


@pytest.fixture
def pairs(tmp_path):
    write_pairs(tmp_path / "data" / "train", 3)
    write_pairs(tmp_path / "data" / "test", 2, first_seed=50)
    return tmp_path / "data"


def test_a_sound_folder_is_counted_and_ends_with_0(pairs):
    finished = run("i2i-train", "check-data", pairs)

    assert finished.returncode == 0, finished.stderr
    assert "A|B side by side" in finished.stdout
    assert "128x64 (3)" in finished.stdout
    assert "128x64 (2)" in finished.stdout


def test_everything_that_is_wrong_is_named_and_ends_with_3(pairs):
    (pairs / "train" / "empty.png").touch()
    cut = pairs / "train" / "cut.jpg"
    cv2.imwrite(str(cut), np.hstack((drawing(7), drawing(8))))
    cut.write_bytes(cut.read_bytes()[:-100])
    cv2.imwrite(str(pairs / "train" / "odd.png"), drawing(1, 64, 65))
    shutil.copy(pairs / "train" / "0.png", pairs / "test" / "copied.png")

    finished = run("i2i-train", "check-data", pairs)

    assert finished.returncode == 3
    assert "4 problems found" in the_error_line(finished)
    for problem in (
        "empty.png: the file is empty",
        "cut.jpg: truncated JPEG",
        "odd.png: expected A|B side by side, found an odd width of 65",
        "copied.png: the same file as",
    ):
        assert problem in finished.stdout


def test_partners_that_are_missing_are_named(tmp_path):
    write_unpaired(tmp_path, "train", 3, 4)

    (problem,) = check_data(tmp_path).all_problems

    assert "3 and 4; 1 have no partner, for example 3" in problem


def test_two_sets_without_pairs_may_differ_in_number_and_size(tmp_path):
    write_unpaired(tmp_path, "train", 3, 4)

    report = check_data(tmp_path, unpaired=True)

    assert report.all_problems == []
    assert [(part.name, part.count, len(part.sizes)) for part in report.parts] == [("trainA", 3, 3), ("trainB", 4, 4)]


def test_a_pair_of_two_sizes_is_named_with_both(tmp_path):
    for domain, width in (("A", 64), ("B", 80)):
        (tmp_path / f"train{domain}").mkdir()
        cv2.imwrite(str(tmp_path / f"train{domain}" / "x.png"), drawing(1 + width, 64, width))

    (problem,) = check_data(tmp_path).all_problems

    assert "expected a pair of one size, found 64x64 and 80x64" in problem


def test_classes_of_label_maps_are_listed_and_ids_out_of_range_found(tmp_path):
    write_labelled(tmp_path, "train", 2)

    sound, wrong = (check_data(tmp_path, label_nc=count) for count in (4, 3))

    assert next(part for part in sound.parts if part.name == "train_label").ids == {0, 1, 2, 3}
    assert sound.all_problems == []
    assert all("expected label ids 0 to 2, found 3" in problem for problem in wrong.all_problems)
    assert len(wrong.all_problems) == 2


def test_maps_and_photographs_of_other_names_are_found(tmp_path):
    write_labelled(tmp_path, "train", 3)
    (tmp_path / "train_inst" / "town_000002_instanceIds.png").unlink()

    (problem,) = check_data(tmp_path, label_nc=4).all_problems

    assert "train_inst: expected pictures with equal names, found 3 and 2" in problem


def test_pictures_directly_in_the_folder_are_checked_as_they_are_trained_on(tmp_path):
    write_pairs(tmp_path, 2)

    assert check_data(tmp_path).parts[0].count == 2


def test_folders_of_label_maps_that_are_missing_are_named(tmp_path):
    write_labelled(tmp_path, "train", 1)
    write_labelled(tmp_path, "val", 1, first_seed=9)
    shutil.rmtree(tmp_path / "val_inst")
    shutil.rmtree(tmp_path / "train_img")

    problems = "\n".join(check_data(tmp_path).all_problems)

    assert "train_img: expected the photographs of train_label" in problems
    assert "val_inst: expected instance maps as in the other parts" in problems


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_of_no_layout_is_refused_with_the_layouts(tmp_path, exists):
    if exists:
        (tmp_path / "data" / "pictures").mkdir(parents=True)

    with pytest.raises(SourceError, match=r"no such data folder|expected train/, trainA/.*found pictures"):
        check_data(tmp_path / "data")


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="shared/data is not here: real data is the point of this test")
@pytest.mark.parametrize(("name", "options"), [("cmp_facades", ()), ("cats2dogs", ("--unpaired",))])
def test_real_data_is_sound(name, options):
    finished = run("i2i-train", "check-data", SHARED_DATA / name, *options)

    assert finished.returncode == 0, finished.stdout + finished.stderr
