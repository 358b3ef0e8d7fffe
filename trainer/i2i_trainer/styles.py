"""Style codes: what a feature encoder says of the objects of a class, in a few clusters (pix2pixHD section 3.4)."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from i2i_trainer.models.base import Batch

_LEAST_SHARE = 0.005
"""Of the picture that an object must cover to count; smaller ones say little."""
_TRIES = 5
"""Of k-means, of which the best is kept."""


@torch.no_grad()
def cluster_styles(encoder: nn.Module, batches: Iterable[Batch], styles: int) -> Tensor:
    """Encode every object of some training images and cluster the codes of each class with k-means.

    Args:
        encoder: (image, instances) to features that are equal over an instance.
        batches: images with label maps one-hot in `input`.
        styles: number of clusters.

    Returns:
        (styles, classes, features) float32, class by class from the largest cluster to the smallest. A class of fewer
        objects repeats them; one that no image shows has zeros. Codes that are not finite make NaN of their class.
    """
    codes: dict[int, list[np.ndarray]] = {}
    classes, features = 0, 0
    for batch in batches:
        assert batch.instances is not None
        encoded = encoder(batch.target, batch.instances).float().cpu()
        features = encoded.shape[1]
        assert batch.n_labels
        classes = batch.n_labels
        labels = batch.input[:, :classes].argmax(1).cpu()
        for of_image, its_labels, its_ids in zip(encoded, labels, batch.instances[:, 0].cpu(), strict=True):
            for instance in its_ids.unique():
                where = its_ids == instance
                if where.float().mean() >= _LEAST_SHARE:
                    label = int(its_labels[where].mode().values)
                    codes.setdefault(label, []).append(of_image[:, where].mean(1).numpy())
    table = np.zeros((styles, classes, features), np.float32)
    for label, found in codes.items():
        table[:, label] = _centres(np.asarray(found, np.float32), styles)
    return torch.from_numpy(table)


def _centres(codes: np.ndarray, count: int) -> np.ndarray:
    if not np.isfinite(codes).all():  # a training that diverged, which its checkpoint will tell
        return np.full((count, codes.shape[1]), np.nan, np.float32)
    centres, sizes = np.unique(codes, axis=0, return_counts=True)
    # OpenCV takes a single code for a row of one-dimensional ones: few codes are their own clusters.
    if len(centres) > count:
        # Its k-means draws from its own generator: seeded, the same codes give the same styles.
        cv2.setRNGSeed(0)
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
        _, members, centres = cv2.kmeans(codes, count, None, criteria, _TRIES, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
        sizes = np.bincount(members[:, 0], minlength=count)
    largest_first = np.argsort(-sizes, kind="stable")
    return np.asarray(centres[np.resize(largest_first, count)])
