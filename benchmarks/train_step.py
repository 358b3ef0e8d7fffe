"""Compare our training step with the plain one of the papers' repositories, model by model, in turns.

    python benchmarks/train_step.py [--models pix2pix cyclegan pix2pixhd] [--size 128] [--rounds 7] [--json FILE]

The plain step is written out below from the papers: float32, NCHW, every network called by itself, the optimiser as
`torch.optim.Adam` comes. Both steps have the same networks, the same random images on the device, and no data loading.
What counts is the ratio of images a second, taken round by round in one run. Peak memory is that of the GPU, or on a
Linux CPU the resident memory, of each step in a process by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from i2i_trainer.config import RunConfig
from i2i_trainer.distributed import World
from i2i_trainer.losses import discriminator_gan_loss, feature_matching_loss, generator_gan_loss
from i2i_trainer.models import build_model, config_type
from i2i_trainer.models.base import Batch, Model, Task
from i2i_trainer.stepper import Stepper
from measuring.environment import environment
from measuring.figures import interleaved, ratio, words, write_figures
from measuring.memory import peak_memory_mib

Step = Callable[[Batch], None]
LABELS = 35


def main() -> None:
    """Time both steps of each model in turns, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PLAIN), choices=list(PLAIN))
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels (default: 128)")
    parser.add_argument("--width", type=int, default=64, help="ngf and ndf (default: 64, the papers')")
    parser.add_argument("--batch", type=int, default=1, help="images a step (default: 1, the papers')")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of both steps (default: 7)")
    parser.add_argument("--per-round", type=int, default=3, help="steps a round (default: 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile")
    parser.add_argument("--ema", type=float, default=0.999, help="ours with a moving average (default: 0.999; 0: none)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    machine = environment(sys.argv)
    device = torch.device(arguments.device)
    results = [measure(name, arguments, device) for name in arguments.models]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu
    table = Table(
        title=f"{arguments.size}x{arguments.size}, ngf {arguments.width}, batch {arguments.batch}, on {where}"
    )
    for column in ("model", "ours / plain, images a second", "plain, steps/s", "peak memory, ours", "plain"):
        table.add_column(column, justify="right")
    for result in results:
        memory = [f"{result[f'{which}_peak_mib']:.0f} MiB" for which in ("ours", "plain")]
        table.add_row(result["model"], words(result["ratio"]), f"{result['plain_steps_per_s']:.2f}", *memory)
    Console(width=120).print(table)
    if arguments.json:
        figures = {
            "what": "images a second, our training step / the plain step",
            "results": results,
            "settings": {key: value for key, value in vars(arguments).items() if key != "json"},
            "device": where,
        }
        write_figures(arguments.json, machine, figures)


def measure(name: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Interleaved rounds of one model; two rounds before them pay for buffers, algorithms and compilation."""
    steps = {
        "ours": ours(name, arguments, device),
        "plain": PLAIN[name](model_of(name, arguments, device)),
    }
    batch = random_batch(name, arguments, device)
    contestants = {which: partial(several, step, batch, arguments.per_round, device) for which, step in steps.items()}
    seconds = interleaved(contestants, arguments.rounds, warm_up=2)
    return {
        "model": name,
        "ratio": ratio(seconds["plain"], seconds["ours"]),
        "plain_steps_per_s": arguments.per_round / statistics.median(seconds["plain"]),
        **{f"{which}_peak_mib": peak_of_its_own(which, name, arguments) for which in steps},
    }


def peak_of_its_own(which: str, name: str, arguments: argparse.Namespace) -> float:
    """MiB that three steps take at most, in a process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(peak_memory, which, name, arguments).result()


def peak_memory(which: str, name: str, arguments: argparse.Namespace) -> float:
    """MiB in this process: on a GPU what torch held, on a CPU the resident memory beyond that before the networks."""
    device = torch.device(arguments.device)
    before = peak_memory_mib() or 0.0
    step = ours(name, arguments, device) if which == "ours" else PLAIN[name](model_of(name, arguments, device))
    batch = random_batch(name, arguments, device)
    for _ in range(3):
        step(batch)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return (peak_memory_mib() or 0.0) - before


def several(step: Step, batch: Batch, count: int, device: torch.device) -> None:
    """A turn; on a GPU it is over when the last step is done."""
    for _ in range(count):
        step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def model_of(name: str, arguments: argparse.Namespace, device: torch.device) -> Model[Any]:
    """Fresh networks of a model type; of label maps one-hot with edges for pix2pixHD."""
    torch.manual_seed(0)
    channels = LABELS + 1 if name == "pix2pixhd" else 3
    config = config_type(name)(ngf=arguments.width, ndf=arguments.width)
    task = Task(size=(arguments.size, arguments.size), input_channels=channels, has_labels=channels > 3)
    model = build_model(name, config, task)
    model.begin(model.stages()[0])
    model.generators.to(device)
    model.discriminators.to(device)
    return model


def random_batch(name: str, arguments: argparse.Namespace, device: torch.device) -> Batch:
    """Images of noise: what is on them makes no difference to the time."""
    torch.manual_seed(1)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    given = torch.rand(shape) * 2 - 1
    if name == "pix2pixhd":
        labels = torch.randint(LABELS, (arguments.batch, arguments.size, arguments.size))
        one_hot = functional.one_hot(labels, LABELS).permute(0, 3, 1, 2).float()
        given = torch.cat([one_hot, torch.zeros_like(one_hot[:, :1])], 1)
    return Batch(input=given.to(device), target=(torch.rand(shape) * 2 - 1).to(device))


def ours(name: str, arguments: argparse.Namespace, device: torch.device) -> Step:
    """The step of `i2i-train` with its defaults for the device."""
    run = RunConfig(data="-", out="-", ema=arguments.ema, compile=arguments.compile)
    stepper = Stepper(model_of(name, arguments, device), run, device, World())
    count = 0

    def step(batch: Batch) -> None:
        nonlocal count
        moved = Batch(input=stepper.to_device(batch.input), target=stepper.to_device(batch.target))
        stepper.step([moved], rate=2e-4, number=count)
        count += 1

    return step


def adam(*networks: nn.Module) -> torch.optim.Adam:
    """As the papers' repositories make it."""
    weights = [weight for network in networks for weight in network.parameters()]
    return torch.optim.Adam(weights, lr=2e-4, betas=(0.5, 0.999))


def plain_pix2pix(model: Model[Any]) -> Step:
    """Isola et al. 2017: the discriminator, then the generator."""
    g, d = model.generators["G"], model.discriminators["D"]
    g_adam, d_adam = adam(g), adam(d)

    def step(batch: Batch) -> None:
        fake = g(batch.input)
        d.requires_grad_(True)
        d_adam.zero_grad()
        on_fake = discriminator_gan_loss(d(torch.cat([batch.input, fake.detach()], 1)), False, "vanilla")
        on_real = discriminator_gan_loss(d(torch.cat([batch.input, batch.target], 1)), True, "vanilla")
        (0.5 * (on_fake + on_real)).backward()
        d_adam.step()
        d.requires_grad_(False)
        g_adam.zero_grad()
        convinced = generator_gan_loss(d(torch.cat([batch.input, fake], 1)), "vanilla")
        (convinced + 100 * functional.l1_loss(fake, batch.target)).backward()
        g_adam.step()

    return step


def plain_cyclegan(model: Model[Any]) -> Step:
    """Zhu et al. 2017: both generators, then each discriminator; every image by itself."""
    g_a, g_b = model.generators["G_A"], model.generators["G_B"]
    d_a, d_b = model.discriminators["D_A"], model.discriminators["D_B"]
    g_adam, d_adam = adam(g_a, g_b), adam(d_a, d_b)

    def step(batch: Batch) -> None:
        a, b = batch.input, batch.target
        fake_b, fake_a = g_a(a), g_b(b)
        rec_a, rec_b = g_b(fake_b), g_a(fake_a)
        model.discriminators.requires_grad_(False)
        g_adam.zero_grad()
        identity = 5 * (functional.l1_loss(g_a(b), b) + functional.l1_loss(g_b(a), a))
        cycle = 10 * (functional.l1_loss(rec_a, a) + functional.l1_loss(rec_b, b))
        convinced = generator_gan_loss(d_a(fake_b), "lsgan") + generator_gan_loss(d_b(fake_a), "lsgan")
        (identity + cycle + convinced).backward()
        g_adam.step()
        model.discriminators.requires_grad_(True)
        d_adam.zero_grad()
        for d, real, fake in ((d_a, b, fake_b), (d_b, a, fake_a)):
            remembered = model.pools["D_A" if d is d_a else "D_B"].query(fake.detach())
            on_real = discriminator_gan_loss(d(real), True, "lsgan")
            on_fake = discriminator_gan_loss(d(remembered), False, "lsgan")
            (0.5 * (on_real + on_fake)).backward()
        d_adam.step()

    return step


def plain_pix2pixhd(model: Model[Any]) -> Step:
    """Wang et al. 2018: all losses first, then both updates."""
    g, d = model.generators["G"], model.discriminators["D"]
    g_adam, d_adam = adam(g), adam(d)

    def step(batch: Batch) -> None:
        fake = g(batch.input)
        on_fake = d(torch.cat([batch.input, fake.detach()], 1))
        on_real = d(torch.cat([batch.input, batch.target], 1))
        convinced = d(torch.cat([batch.input, fake], 1))
        d_loss = sum(discriminator_gan_loss(f[-1], False, "lsgan") for f in on_fake)
        d_loss = d_loss + sum(discriminator_gan_loss(f[-1], True, "lsgan") for f in on_real)
        g_loss = sum(generator_gan_loss(f[-1], "lsgan") for f in convinced)
        g_loss = g_loss + 10 * feature_matching_loss(on_real, convinced)
        g_adam.zero_grad()
        g_loss.backward()
        g_adam.step()
        d_adam.zero_grad()
        (0.5 * d_loss).backward()
        d_adam.step()

    return step


PLAIN: dict[str, Callable[[Model[Any]], Step]] = {
    "pix2pix": plain_pix2pix,
    "cyclegan": plain_cyclegan,
    "pix2pixhd": plain_pix2pixhd,
}


if __name__ == "__main__":
    main()
