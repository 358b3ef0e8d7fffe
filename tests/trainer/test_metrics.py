"""Metrics: the figures of plain NumPy in float64, and what is said where there are none."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from distances import frechet, kernel_distance
from torch import nn

from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.metrics import MAX_PSNR, METRICS, FeatureNetwork, PairedMetrics, PerceptualMetrics, is_better


def images(seed: int, n: int = 2, channels: int = 3, height: int = 16, width: int = 20) -> torch.Tensor:
    return torch.rand((n, channels, height, width), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def paired(output: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    metrics = PairedMetrics()
    metrics.update(output, target)
    return metrics.compute()


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Of two (h, w) pictures in [-1, 1]: Wang et al. 2004, the picture reflected beyond its border."""
    place = np.arange(-5, 6)
    line = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def blurred(picture: np.ndarray) -> np.ndarray:
        patches = np.lib.stride_tricks.sliding_window_view(np.pad(picture, 5, mode="reflect"), (11, 11))
        return (patches * window).sum((2, 3))

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean())


# pairs


def test_l1_and_psnr_are_means_over_pictures():
    output, target = images(1), images(2)
    output[1] = target[1] + 0.01

    figures = paired(output, target)

    difference = output.numpy().astype(np.float64) - target.numpy().astype(np.float64)
    psnrs = [10 * math.log10(2**2 / (picture**2).mean()) for picture in difference]
    assert figures["L1"] == pytest.approx(np.abs(difference).mean(), rel=1e-6)
    assert figures["PSNR"] == pytest.approx(np.mean(psnrs), rel=1e-6)


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 16, 20), (1, 11, 11), (5, 30, 12)])
def test_ssim_is_the_papers(channels, height, width):
    target = images(1, 2, channels, height, width)
    output = 0.7 * target + 0.3 * images(2, 2, channels, height, width)

    expected = np.mean(
        [
            ssim(x, y)
            for x, y in zip(
                output.double().numpy().reshape(-1, height, width),
                target.double().numpy().reshape(-1, height, width),
                strict=True,
            )
        ]
    )

    assert paired(output, target)["SSIM"] == pytest.approx(expected, abs=1e-5)


def test_batches_count_by_their_pictures():
    output, target = images(1, 3), images(2, 3)
    metrics = PairedMetrics()

    metrics.update(output[:1], target[:1])
    metrics.update(output[1:], target[1:])

    assert metrics.compute() == pytest.approx(paired(output, target), rel=1e-6)


def test_identical_pictures_have_a_psnr_that_is_a_number():
    assert paired(images(1), images(1)) == {"L1": 0.0, "PSNR": MAX_PSNR, "SSIM": pytest.approx(1.0)}


@pytest.mark.parametrize(("height", "width"), [(10, 20), (20, 10), (2, 2)])
def test_pictures_smaller_than_the_window_have_no_ssim(height, width):
    figures = paired(images(1, height=height, width=width), images(2, height=height, width=width))

    assert figures.keys() == {"L1", "PSNR"}


def test_half_precision_is_measured_as_it_is():
    output, target = images(1).bfloat16(), images(2)

    assert paired(output, target) == pytest.approx(paired(output.float(), target))


def test_nothing_measured_is_no_figure():
    assert PairedMetrics().compute() == {}


# feature networks


class Means(nn.Module):
    """Features are the means of each channel's left and right half, on a scale that keeps kernels small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[3] // 2
        x = x.float() / 64
        return torch.cat([x[:, :, :, :half].mean((2, 3)), x[:, :, :, half:].mean((2, 3))], 1)


class LikeInception(nn.Module):
    """Class scores, or features where they are asked for."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.float().mean((2, 3)) if return_features else torch.zeros(x.shape[0], 1008)


class Flat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean()


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Floats(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.zeros(3, 3)


@pytest.fixture
def saved(tmp_path):
    def save(network: nn.Module):
        path = tmp_path / "features.pt"
        with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
            torch.jit.script(network).save(str(path))
        return path

    return save


def test_a_feature_network_says_what_figures_were_measured_with(saved):
    path = saved(Means())

    network = FeatureNetwork(path)

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert network.num_features == 6
    assert network.description == f"features.pt (sha256 {digest}), 6 features, resized by the network itself"


def test_features_are_asked_for_where_the_network_also_has_class_scores(saved):
    assert FeatureNetwork(saved(LikeInception())).num_features == 3


def test_a_missing_network_is_named_with_the_way_to_get_one(tmp_path):
    with pytest.raises(ModelError, match=r"^--features .*none\.pt: no such file\. .*inception-2015-12-05\.pt"):
        FeatureNetwork(tmp_path / "none.pt")


def test_a_file_that_is_no_network_is_named(tmp_path):
    (tmp_path / "pickle.pkl").write_bytes(b"no network")

    with pytest.raises(ModelError, match=r"^[^\n]*pickle\.pkl: expected a TorchScript network[^\n]*$"):
        FeatureNetwork(tmp_path / "pickle.pkl")


def test_weights_without_a_network_are_named(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")

    with pytest.raises(ModelError, match=r"^[^\n]*weights\.pt: expected a TorchScript network[^\n]*$"):
        FeatureNetwork(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Flat(), r"expected \(n, d\) features of n images, found a tensor of \(\) of 2"),
        (Pair(), r"expected \(n, d\) features of n images, found tuple of 2"),
        (Floats(), r"expected a network of \(n, 3, h, w\) uint8 images, found"),
    ],
)
def test_a_network_of_another_kind_is_refused_in_one_line(saved, network, message):
    with pytest.raises(ModelError, match=rf"^--features [^\n]*features\.pt: {message}[^\n]*$"):
        FeatureNetwork(saved(network))


# sets


def features(pictures: torch.Tensor) -> np.ndarray:
    """What `Means` sees, in float64."""
    x = np.round((pictures.double().numpy() + 1) * 127.5) / 64
    half = x.shape[3] // 2
    return np.concatenate([x[..., :half].mean((2, 3)), x[..., half:].mean((2, 3))], 1)


def measure(network: FeatureNetwork, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
    metrics = PerceptualMetrics(network)
    for pictures, is_real in ((real, True), (fake, False)):
        for part in pictures.split(7):
            metrics.update(part, real=is_real)
    return metrics.compute()


# Features stand out from noise where pictures are small.
REAL, FAKE = images(1, 20, 3, 2, 2), images(2, 20, 3, 2, 2) * 0.5 + 0.3


def test_fid_and_kid_are_the_papers(saved):
    figures = measure(FeatureNetwork(saved(Means())), REAL, FAKE)

    assert figures["FID"] == pytest.approx(frechet(features(REAL), features(FAKE)), rel=1e-6)
    assert figures["KID"] == pytest.approx(kernel_distance(features(REAL), features(FAKE)), rel=1e-6)


def test_fid_of_fewer_pictures_than_features_is_finite(saved):
    figures = measure(FeatureNetwork(saved(Means())), REAL[:3], FAKE[:3])

    assert figures["FID"] == pytest.approx(frechet(features(REAL[:3]), features(FAKE[:3])), abs=1e-5)


def test_a_set_is_at_no_distance_from_itself(saved):
    figures = measure(FeatureNetwork(saved(Means())), REAL, REAL.flip(0))

    assert figures["FID"] == pytest.approx(0, abs=1e-6)
    assert figures["KID"] <= 0  # the unbiased estimate leaves each picture's likeness to itself out on one side only


def test_kid_of_sides_of_two_sizes_is_a_mean_over_subsets(saved):
    figures = measure(FeatureNetwork(saved(Means())), REAL, FAKE[:9])

    # One subset alone is further off than this on most draws; the mean of 100 is within a few per cent.
    assert figures["KID"] == pytest.approx(kernel_distance(features(REAL), features(FAKE[:9])), rel=0.05)


def test_one_channel_is_seen_as_grey(saved):
    network = FeatureNetwork(saved(Means()))
    grey = REAL[:, :1], FAKE[:, :1]

    assert measure(network, *grey) == measure(network, *(side.repeat(1, 3, 1, 1) for side in grey))


def test_figures_are_the_same_each_time_and_leave_chance_as_it_was(saved):
    network = FeatureNetwork(saved(Means()))
    torch.manual_seed(3)
    before = torch.get_rng_state()

    first = measure(network, REAL, FAKE[:9])  # KID takes subsets of the larger side
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)

    assert measure(network, REAL, FAKE[:9]) == first


@pytest.mark.parametrize(("real", "fake"), [(0, 0), (1, 5), (5, 1), (5, 0)])
def test_fewer_than_two_pictures_a_side_have_no_distance(saved, real, fake):
    assert measure(FeatureNetwork(saved(Means())), REAL[:real], FAKE[:fake]) == {}


def test_pictures_that_no_feature_network_sees_are_refused(saved):
    with pytest.raises(UsageError, match="--features: expected images of 1 or 3 channels, found 5"):
        PerceptualMetrics(FeatureNetwork(saved(Means()))).update(images(1, channels=5), real=True)


# choosing


@pytest.mark.parametrize("name", METRICS)
def test_better_is_nearer_to_the_target(name):
    higher = name.startswith(("PSNR", "SSIM"))

    assert is_better(name, 2.0, 1.0) == higher
    assert is_better(name, 1.0, 2.0) != higher
    assert not is_better(name, 1.0, 1.0)
    assert not is_better(name, math.nan, 1.0)
