"""Style codes: clusters of what an encoder says of objects, and how a chosen style enters the generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from i2i_runtime.card import LabelSpec
from i2i_trainer.models.base import Batch
from i2i_trainer.networks.inference import LabelTranslator, as_used
from i2i_trainer.networks.labels import LabelEncoding
from i2i_trainer.styles import cluster_styles

CLASSES = 4


class Known(nn.Module):
    """Says of each instance what a table says."""

    def __init__(self, codes: dict[int, list[float]]) -> None:
        super().__init__()
        self._codes = codes

    def forward(self, image: torch.Tensor, instances: torch.Tensor) -> torch.Tensor:
        code = torch.tensor([self._codes[int(i)] for i in instances.flatten()])
        n, _, height, width = instances.shape
        return code.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def batch_of(labels: torch.Tensor, instances: torch.Tensor) -> Batch:
    """Of (h, w) maps."""
    labels, instances = labels[None, None].int(), instances[None, None].int()
    encoded = LabelEncoding(CLASSES, True)(labels, instances)
    return Batch(input=encoded, target=torch.zeros(1, 3, *labels.shape[-2:]), instances=instances, n_labels=CLASSES)


def rows(*objects: tuple[int, int, int]) -> Batch:
    """Objects of (label, instance, rows), one below the other, 10 pixels wide."""
    labels = torch.cat([torch.full((height, 10), label) for label, _, height in objects])
    return batch_of(labels, torch.cat([torch.full((height, 10), instance) for _, instance, height in objects]))


def planted(n_large: int = 7, n_small: int = 3) -> tuple[Known, list[Batch]]:
    """Class 1 has a large cluster around (5, 5) and a small one around (-5, 0), in turn, over several pictures."""
    rng = np.random.default_rng(0)
    centres = [(-5.0, 0.0)] * n_small + [(5.0, 5.0)] * n_large
    codes = {1000 + i: list(rng.normal(centre, 0.1)) for i, centre in enumerate(centres)}
    return Known(codes), [rows((1, instance, 10)) for instance in codes]


def test_planted_clusters_are_found_the_largest_first():
    encoder, batches = planted()

    table = cluster_styles(encoder, batches, 2)

    assert (table.shape, table.dtype) == ((2, CLASSES, 2), torch.float32)
    codes = np.asarray(list(encoder._codes.values()))
    np.testing.assert_allclose(table[0, 1], codes[3:].mean(0), atol=1e-5)
    np.testing.assert_allclose(table[1, 1], codes[:3].mean(0), atol=1e-5)


def test_classes_have_clusters_of_their_own():
    encoder = Known({1: [1.0, 1.0], 2: [2.0, 2.0], 3: [3.0, 3.0]})

    table = cluster_styles(encoder, [rows((0, 1, 10), (2, 2, 10)), rows((0, 3, 10), (2, 2, 5))], 2)

    assert sorted(table[:, 0, 0].tolist()) == [1.0, 3.0]
    assert table[:, 2].tolist() == [[2.0, 2.0]] * 2


def test_a_class_that_no_picture_shows_has_zeros():
    encoder, batches = planted()

    table = cluster_styles(encoder, batches, 3)

    assert torch.equal(table[:, [0, 2, 3]], torch.zeros(3, 3, 2))
    assert table[:, 1].abs().min() > 0 or table[:, 1].abs().sum() > 0


def test_a_class_of_one_object_repeats_it():
    table = cluster_styles(Known({7: [0.5, -2.0]}), [rows((3, 7, 10))], 4)

    assert table[:, 3].tolist() == [[0.5, -2.0]] * 4


def test_a_class_of_fewer_objects_than_styles_repeats_them_in_turn():
    encoder = Known({1: [1.0], 2: [9.0]})

    codes = cluster_styles(encoder, [rows((0, 1, 10)), rows((0, 2, 10)), rows((0, 2, 10))], 5)[:, 0, 0]

    assert codes.tolist() == pytest.approx([9.0, 1.0, 9.0, 1.0, 9.0])


def test_objects_with_equal_codes_are_one_cluster():
    encoder = Known({i: [4.0, 4.0] for i in range(6)})

    assert cluster_styles(encoder, [rows((0, i, 10)) for i in range(6)], 3)[:, 0].tolist() == [[4.0, 4.0]] * 3


def test_tiny_objects_do_not_count():
    # 1000 pixels: 4 are too few, 6 count.
    labels, instances = torch.zeros(100, 10), torch.zeros(100, 10)
    for column, (label, instance, pixels) in enumerate([(1, 1, 4), (2, 2, 6)]):
        labels[:pixels, column], instances[:pixels, column] = label, instance

    table = cluster_styles(Known({0: [1.0], 1: [50.0], 2: [60.0]}), [batch_of(labels, instances)], 1)

    assert table[0, :, 0].tolist() == [1.0, 0.0, 60.0, 0.0]


def test_an_object_belongs_to_the_class_of_most_of_its_pixels():
    labels = torch.cat([torch.full((3, 10), 0), torch.full((7, 10), 2)])

    table = cluster_styles(Known({5: [8.0]}), [batch_of(labels, torch.full((10, 10), 5))], 1)

    assert table[0, :, 0].tolist() == [0.0, 0.0, 8.0, 0.0]


def test_the_same_input_gives_the_same_codes_whatever_was_drawn_before():
    import cv2

    encoder, batches = planted(20, 20)
    once = cluster_styles(encoder, batches, 4)
    cv2.setRNGSeed(99)
    torch.manual_seed(99)
    np.random.seed(99)

    assert torch.equal(once, cluster_styles(encoder, batches, 4))


def test_codes_of_an_encoder_that_diverged_are_no_numbers():
    encoder = Known({i: [float("nan") if i == 3 else float(i)] for i in range(8)})

    table = cluster_styles(encoder, [rows((i % 2, i, 10)) for i in range(8)], 2)

    assert table[:, 1].isnan().all()
    assert table[:, 0].isfinite().all()


# in the generator


LABELS = LabelSpec(count=CLASSES, instance_edges=True, styles=3)


@pytest.fixture
def translator():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(CLASSES + 1 + 2, 3, 3, padding=1), nn.Tanh())
    return LabelTranslator(LABELS, generator, torch.randn(3, CLASSES, 2)).eval()


@pytest.fixture
def maps():
    torch.manual_seed(1)
    labels = torch.randint(CLASSES, (2, 1, 12, 10), dtype=torch.int32)
    return labels, labels * 1000 + torch.randint(3, labels.shape, dtype=torch.int32)


@torch.no_grad()
def by_hand(translator, labels, instances, style):
    one_hot = functional.one_hot(labels[:, 0].long(), CLASSES).permute(0, 3, 1, 2).float()
    edges = torch.zeros(labels.shape)
    n, _, height, width = labels.shape
    for image, y, x in np.ndindex(n, height, width):
        near = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        its = instances[image, 0]
        edges[image, 0, y, x] = any(
            its[a, b] != its[y, x] for a, b in near if 0 <= a < height and 0 <= b < width
        )  # fmt: skip
    code = translator.style_codes[style][labels[:, 0].long()].permute(0, 3, 1, 2)
    return translator.generator(torch.cat([one_hot, edges, code], 1))


@pytest.mark.parametrize("style", [0, 1, 2])
def test_a_style_is_the_code_of_each_pixels_class(translator, maps, style):
    with torch.no_grad():
        translated = translator(*maps, style=torch.tensor([style]))

    torch.testing.assert_close(translated, by_hand(translator, *maps, style))


def test_without_a_choice_it_is_the_first_style(translator, maps):
    with torch.no_grad():
        assert torch.equal(translator(*maps), translator(*maps, style=torch.tensor([0])))


def test_another_style_makes_another_picture(translator, maps):
    with torch.no_grad():
        one, other = (translator(*maps, style=torch.tensor([style])) for style in (0, 1))

    assert (one - other).abs().max() > 0.01


def test_a_style_changes_only_pixels_near_classes_whose_code_it_changes(translator):
    labels = torch.zeros(1, 1, 8, 12, dtype=torch.int32)
    labels[..., 6:] = 2
    translator.style_codes[1] = translator.style_codes[0]
    translator.style_codes[1, 2] += 1

    with torch.no_grad():
        one, other = (translator(labels, labels, style=torch.tensor([style])) for style in (0, 1))

    changed = (one != other).any(1)[0].any(0)
    assert changed.tolist() == [False] * 5 + [True] * 7  # the convolution sees one pixel beyond


def test_a_model_without_edges_or_styles_takes_the_label_map_alone(maps):
    torch.manual_seed(0)
    generator = nn.Conv2d(CLASSES, 3, 1)
    translator = as_used(generator, "image", LabelSpec(count=CLASSES, instance_edges=False))

    with torch.no_grad():
        translated = translator(maps[0])
        one_hot = functional.one_hot(maps[0][:, 0].long(), CLASSES).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(translated, generator(one_hot))
