"""Print how near a paired generator comes to held-out targets, beside two baselines that know nothing of the input.

    python benchmarks/quality.py --checkpoint RUN/last.pt --data DIR [--split test] [--json FILE]

Mean absolute error in units of [-1, 1], over all pictures of the split: of the trained generator in the form in which
it is exported, of the same network before training, and of the mean of all training targets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from i2i_export.load import load_trained
from i2i_trainer.data.paired import PairedDataset, find_pairs
from i2i_trainer.data.transforms import Preprocess
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.inference import for_inference
from i2i_trainer.networks.layers import init_weights


@torch.no_grad()
def main() -> None:
    """Evaluate, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of i2i-train pix2pix")
    parser.add_argument("--data", type=Path, required=True, help="the folder it was trained on")
    parser.add_argument("--split", default="test", help="the held-out part (default: test)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    trained = load_trained(arguments.checkpoint)
    card = trained.card
    assert card.training is not None, "a checkpoint of i2i-train has a training record"
    preprocess = Preprocess(size=card.training.size, load_size=card.training.size, flip=False)

    def pictures(split: str) -> PairedDataset:
        return PairedDataset(find_pairs(arguments.data, [split]), preprocess, card.direction, seed=0)

    train_set, held_out = pictures("train"), pictures(arguments.split)
    torch.manual_seed(card.training.seed)
    untrained = build_generator(card.generator)
    init_weights(untrained)
    mean = torch.stack([train_set.fixed(i)[1] for i in range(len(train_set.pairs))]).mean(0)
    candidates: dict[str, Callable[[Tensor], Tensor]] = {
        f"trained, {card.training.steps} steps": lambda image: trained.generator(image[None])[0],
        "untrained": lambda image: for_inference(untrained, trained.statistics)(image[None])[0],
        "mean of the training targets": lambda image: mean,
    }
    errors = {
        name: sum(
            (candidate(source) - target).abs().mean().item()
            for source, target in (held_out.fixed(i) for i in range(len(held_out.pairs)))
        )
        / len(held_out.pairs)
        for name, candidate in candidates.items()
    }
    table = Table(title=f"{card.name} on {len(held_out.pairs)} pictures of {arguments.data.name}/{arguments.split}")
    table.add_column("output")
    table.add_column("mean absolute error", justify="right")
    for name, error in errors.items():
        table.add_row(name, f"{error:.4f}")
    Console().print(table)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(errors, indent=2) + "\n")


if __name__ == "__main__":
    main()
