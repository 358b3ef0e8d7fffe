"""From label and instance maps to what a network can take (pix2pixHD section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LabelEncoding(nn.Module):
    """One channel a class, 1 where the label map says so, and one of the edges between instances."""

    def __init__(self, count: int, instance_edges: bool) -> None:
        """Take the number of classes, and whether edges follow them."""
        super().__init__()
        self._instance_edges = instance_edges
        self.channels = count + int(instance_edges)
        self.register_buffer("_ids", torch.arange(count, dtype=torch.int32).reshape(1, count, 1, 1), persistent=False)

    def forward(self, labels: Tensor, instances: Tensor | None = None) -> Tensor:
        """(n, 1, h, w) integer ids, and instance ids where there are edges, to (n, channels, h, w) float32."""
        one_hot = (labels.to(torch.int32) == self.get_buffer("_ids")).to(torch.get_default_dtype())
        if not self._instance_edges:
            return one_hot
        assert instances is not None, "the generator was trained with instance maps"
        return torch.cat([one_hot, instance_edges(instances)], 1)


def instance_edges(instances: Tensor) -> Tensor:
    """1 at each pixel one of whose four neighbours belongs to another instance, (n, 1, h, w) ids to float32."""
    across = (instances[..., :, 1:] != instances[..., :, :-1]).to(torch.get_default_dtype())
    down = (instances[..., 1:, :] != instances[..., :-1, :]).to(torch.get_default_dtype())
    pad = nn.functional.pad
    # Both pixels of a pair that differs lie at the edge.
    sides = [pad(across, (1, 0)), pad(across, (0, 1)), pad(down, (0, 0, 1, 0)), pad(down, (0, 0, 0, 1))]
    return torch.stack(sides).amax(0)
