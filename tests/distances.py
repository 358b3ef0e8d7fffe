"""FID and KID of two sets of features in float64 NumPy, from the papers: what the metrics are compared with."""

from __future__ import annotations

import numpy as np


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6; the trace of the root of a product is that of a symmetric matrix."""
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ np.cov(y, rowvar=False) @ root).clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.cov(x.T).trace() + np.cov(y.T).trace() - 2 * trace)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018: the unbiased squared MMD with the kernel (x.y / d + 1)^3."""
    (n, d), m = x.shape, len(y)
    among_x, among_y, between = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    np.fill_diagonal(among_x, 0)
    np.fill_diagonal(among_y, 0)
    return float(among_x.sum() / (n * (n - 1)) + among_y.sum() / (m * (m - 1)) - 2 * between.mean())
