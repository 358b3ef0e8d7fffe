"""Print how near a generator comes to held-out targets, beside baselines that have learnt nothing.

    python benchmarks/quality.py --checkpoint RUN/last.pt --data DIR [--split test] [--direction BtoA] [--json FILE]

L1, PSNR and SSIM over all pictures of the split: of the trained generator in the form in which it is exported, of the
same network before training, of the input itself (of a label map: its classes in colours), and of the mean of all
training targets. The held-out pictures must be pairs; what a CycleGAN was trained on need not be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from i2i_runtime.card import Card
from i2i_trainer.config import RunConfig
from i2i_trainer.data.dataset import Dataset, open_split
from i2i_trainer.data.transforms import Preprocess, Sample, to_image, to_tensor
from i2i_trainer.evaluation import Directions, Translate, evaluate, translate_with
from i2i_trainer.networks.build import new_generator
from i2i_trainer.networks.inference import as_used
from i2i_trainer.trained import load_trained
from measuring.environment import environment
from measuring.figures import write_figures

CPU = torch.device("cpu")


def main() -> None:
    """Evaluate, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of i2i-train")
    parser.add_argument("--data", type=Path, required=True, help="the folder it was trained on")
    parser.add_argument("--split", default="test", help="the held-out part (default: test)")
    parser.add_argument("--direction", choices=["AtoB", "BtoA"], help="of a CycleGAN, which generator")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    machine = environment(sys.argv)
    trained = load_trained(arguments.checkpoint, direction=arguments.direction)
    card = trained.card
    assert card.training is not None, "a checkpoint of i2i-train has a training record"
    held_out = pictures(arguments.data, card, arguments.split, "paired")
    kind = "unpaired" if card.model_type == "cyclegan" else "paired"
    train_set = pictures(arguments.data, card, "train", kind)
    torch.manual_seed(card.training.seed)
    styles = getattr(trained.generator, "style_codes", None)
    untrained = as_used(new_generator(card.generator), trained.statistics, card.labels, styles)
    mean = torch.stack([train_set.fixed(i)["target"] for i in range(len(train_set))]).mean(0)
    candidates: dict[str, Translate] = {
        f"trained, {card.training.steps} steps": translate_with(trained.generator, CPU),
        "untrained": translate_with(untrained, CPU),
        "the input": the_input,
        "mean of the training targets": lambda batch: mean.expand_as(batch["target"]),
    }
    figures = {
        name: evaluate(Directions(there=translate), "paired", held_out.evenly())[0]
        for name, translate in candidates.items()
    }
    table = Table(title=f"{card.name} on {len(held_out)} pictures of {arguments.data.name}/{arguments.split}")
    table.add_column("output")
    for metric in ("L1", "PSNR", "SSIM"):
        table.add_column(metric, justify="right")
    for name, values in figures.items():
        table.add_row(name, *(f"{value:.4f}" for value in values.values()))
    Console().print(table)
    if arguments.json:
        what = {"card": card.name, "pictures": len(held_out), "split": arguments.split}
        write_figures(arguments.json, machine, {**what, "outputs": figures})


def pictures(data: Path, card: Card, split: str, kind: str) -> Dataset:
    """A part of the data at the training's size."""
    assert card.training is not None
    run = RunConfig(
        data=str(data),
        direction=card.direction,
        input_channels=card.input.channels,
        output_channels=card.output.channels,
        label_nc=card.labels.count if card.labels else 0,
        instances=bool(card.labels and card.labels.instance_edges),
    )
    preprocess = Preprocess(size=card.training.size, load_size=card.training.size, flip=False)
    dataset = open_split(run, "unpaired" if kind == "unpaired" else "paired", preprocess, [split])
    if dataset is None:
        raise SystemExit(f"{data}: no {split} pictures")
    return dataset


def the_input(batch: Sample) -> Tensor:
    """What a generator that does nothing would return."""
    given = batch["input"]
    if not given.is_floating_point():
        return torch.stack([to_tensor(to_image(image)) for image in given])
    return given if given.shape == batch["target"].shape else given[:, :1].expand_as(batch["target"])


if __name__ == "__main__":
    main()
