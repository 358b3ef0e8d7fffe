"""The memory of generated images: it fills, then half of the images are swapped for older ones."""

from __future__ import annotations

import pytest
import torch

from i2i_trainer.image_pool import ImagePool


def image(number: float) -> torch.Tensor:
    return torch.full((1, 1, 2, 2), float(number))


def numbers(images: torch.Tensor) -> list[float]:
    return images[:, 0, 0, 0].tolist()


def test_images_come_back_as_they_are_until_the_pool_is_full():
    pool = ImagePool(3)

    assert [numbers(pool.query(image(n))) for n in range(3)] == [[0.0], [1.0], [2.0]]


def test_a_pool_of_no_size_gives_back_what_it_gets():
    pool = ImagePool(0)

    assert [numbers(pool.query(image(n))) for n in range(5)] == [[n] for n in range(5)]
    assert pool.state_dict() == {}


def test_once_full_half_of_the_images_are_older_ones():
    torch.manual_seed(0)
    pool = ImagePool(50)
    for n in range(50):
        pool.query(image(n))

    older = sum(numbers(pool.query(image(n))) != [n] for n in range(50, 4050))

    # 4,000 tosses of a coin: four standard deviations are 126.
    assert abs(older - 2000) < 126


def test_an_older_image_that_is_returned_gives_its_place_to_the_new_one():
    torch.manual_seed(1)
    pool = ImagePool(4)
    for n in range(4):
        pool.query(image(n))
    held = [0.0, 1.0, 2.0, 3.0]

    for n in range(4, 200):
        (returned,) = numbers(pool.query(image(n)))
        if returned != n:
            held[held.index(returned)] = float(n)
        assert sorted(numbers(pool.state_dict()["images"])) == sorted(held)


def test_the_rule_replayed_by_hand_gives_the_same_images():
    pool = ImagePool(2)
    pool.query(image(0)), pool.query(image(1))
    torch.manual_seed(7)
    found = [numbers(pool.query(image(n)))[0] for n in range(2, 30)]

    torch.manual_seed(7)
    held, expected = [0.0, 1.0], []
    for n in range(2, 30):
        if torch.rand(()).item() < 0.5:
            place = int(torch.randint(2, ()))
            expected.append(held[place])
            held[place] = float(n)
        else:
            expected.append(float(n))
    assert found == expected


def test_images_of_one_batch_are_drawn_one_by_one():
    torch.manual_seed(0)
    pool = ImagePool(4)

    assert numbers(pool.query(torch.cat([image(n) for n in range(6)])))[:4] == [0, 1, 2, 3]


def test_the_state_of_a_pool_makes_another_go_on_like_it():
    pool, other = ImagePool(3), ImagePool(3)
    for n in range(3):
        pool.query(image(n))

    other.load_state_dict(pool.state_dict())

    results = []
    for each in (pool, other):
        torch.manual_seed(5)
        results.append([numbers(each.query(image(n))) for n in range(3, 40)])
    assert results[0] == results[1]


def test_what_is_remembered_holds_no_graph():
    pool = ImagePool(1)

    pool.query(image(0).requires_grad_())

    assert not pool.state_dict()["images"].requires_grad


@pytest.mark.parametrize("n", [1, 3])
def test_a_batch_keeps_its_shape(n):
    assert ImagePool(2).query(torch.zeros(n, 3, 4, 5)).shape == (n, 3, 4, 5)
