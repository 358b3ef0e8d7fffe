"""Compare our training step with the plain one of the papers' repositories, model by model, in turns.

The plain step is written out below from the papers: float32, NCHW, every network called by itself, the optimiser as
`torch.optim.Adam` comes. Both steps have the same networks, the same random images on the device, and no data loading.
What counts is the ratio of images a second, taken round by round in one run. Peak memory is that of the GPU, or on a
Linux CPU the resident memory, of each step in a process by itself.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from i2i_runtime import command
from i2i_trainer.config import RunConfig
from i2i_trainer.distributed import World
from i2i_trainer.loop import pick_device
from i2i_trainer.losses import discriminator_gan_loss, feature_matching_loss, generator_gan_loss
from i2i_trainer.models import build_model, config_type
from i2i_trainer.models.base import Batch, Model, Task
from i2i_trainer.stepper import Stepper
from measuring.environment import environment
from measuring.figures import interleaved, ratio, words, write_figures
from measuring.list_option import ListOf
from measuring.memory import peak_memory_mib
from measuring.output import check_output

Step = Callable[[Batch], None]
LABELS = 35


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What both steps have in common."""

    size: int
    """Height and width in pixels."""
    width: int
    """ngf and ndf."""
    batch: int
    rounds: int
    per_round: int
    """Steps in a round."""
    device: str
    is_compiled: bool
    """Ours, with torch.compile."""
    ema: float
    """Decay of ours; 0: no moving average."""


def measure(name: str, settings: Settings, device: torch.device) -> dict[str, Any]:
    """Interleaved rounds of one model; two rounds before them pay for buffers, algorithms and compilation."""
    steps = {
        "ours": ours(name, settings, device),
        "plain": PLAIN[name](model_of(name, settings, device)),
    }
    batch = random_batch(name, settings, device)
    contestants = {which: partial(several, step, batch, settings.per_round, device) for which, step in steps.items()}
    seconds = interleaved(contestants, settings.rounds, warm_up=2)
    return {
        "model": name,
        "ratio": ratio(seconds["plain"], seconds["ours"]),
        "plain_steps_per_s": settings.per_round / statistics.median(seconds["plain"]),
        **{f"{which}_peak_mib": peak_of_its_own(which, name, settings) for which in steps},
    }


def peak_of_its_own(which: str, name: str, settings: Settings) -> float:
    """MiB that three steps take at most, in a process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(peak_memory, which, name, settings).result()


def peak_memory(which: str, name: str, settings: Settings) -> float:
    """MiB in this process: on a GPU what torch held, on a CPU the resident memory beyond that before the networks."""
    device = torch.device(settings.device)
    before = peak_memory_mib() or 0.0
    step = ours(name, settings, device) if which == "ours" else PLAIN[name](model_of(name, settings, device))
    batch = random_batch(name, settings, device)
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


def model_of(name: str, settings: Settings, device: torch.device) -> Model[Any]:
    """Fresh networks of a model type; of label maps one-hot with edges for pix2pixHD."""
    torch.manual_seed(0)
    channels = LABELS + 1 if name == "pix2pixhd" else 3
    config = config_type(name)(ngf=settings.width, ndf=settings.width)
    task = Task(size=(settings.size, settings.size), input_channels=channels, has_labels=channels > 3)
    model = build_model(name, config, task)
    model.begin(model.stages()[0])
    model.generators.to(device)
    model.discriminators.to(device)
    return model


def random_batch(name: str, settings: Settings, device: torch.device) -> Batch:
    """Images of noise: what is on them makes no difference to the time."""
    torch.manual_seed(1)
    shape = (settings.batch, 3, settings.size, settings.size)
    given = torch.rand(shape) * 2 - 1
    if name == "pix2pixhd":
        labels = torch.randint(LABELS, (settings.batch, settings.size, settings.size))
        one_hot = functional.one_hot(labels, LABELS).permute(0, 3, 1, 2).float()
        given = torch.cat([one_hot, torch.zeros_like(one_hot[:, :1])], 1)
    return Batch(input=given.to(device), target=(torch.rand(shape) * 2 - 1).to(device))


def ours(name: str, settings: Settings, device: torch.device) -> Step:
    """The step of `i2i-train` with its defaults for the device."""
    run = RunConfig(data="-", out="-", ema=settings.ema, compile=settings.is_compiled)
    stepper = Stepper(model_of(name, settings, device), run, device, World())
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


def _model(word: str) -> str:
    if word not in PLAIN:
        raise click.BadParameter(f"expected some of {','.join(PLAIN)}; found {word!r}")
    return word


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--models", type=ListOf(_model), default=",".join(PLAIN), show_default=True, help="Some of these.")
@click.option("--size", type=click.IntRange(min=1), default=128, show_default=True, help="Height and width in pixels.")
@click.option("--width", type=click.IntRange(min=1), default=64, show_default=True, help="ngf and ndf.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images a step.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Of both steps.")
@click.option("--per-round", type=click.IntRange(min=1), default=3, show_default=True, help="Steps a round.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--compile", "is_compiled", is_flag=True, help="Ours with torch.compile.")
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.999,
    show_default=True,
    help="Ours with a moving average; 0: none.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@command.debug_option
def main(models: tuple[str, ...], device: str, json_file: Path | None, debug: bool, **given: Any) -> None:
    """Compare our training step with the plain one of the papers' repositories.

    \b
      train_step.py
      train_step.py --models pix2pix,cyclegan --size 256 --json train_step.json

    Both have the same networks, the same random images on the device, and no data loading, and take turns.
    """  # noqa: D301
    check_output(json_file)
    machine = environment(sys.argv)
    found = pick_device(device)
    settings = Settings(**given, device=str(found))
    for name in models:
        # Refuses a size that it does not take, before another one is measured.
        model_of(name, settings, torch.device("meta"))
    results = [measure(name, settings, found) for name in models]
    where = torch.cuda.get_device_name(found) if found.type == "cuda" else machine.cpu
    if json_file is not None:
        figures = {
            "what": "images a second, our training step / the plain step",
            "results": results,
            "settings": asdict(settings),
            "device": where,
        }
        write_figures(json_file, machine, figures)
    table = Table(title=f"{settings.size}x{settings.size}, ngf {settings.width}, batch {settings.batch}, on {where}")
    for column in ("model", "ours / plain, images a second", "plain, steps/s", "peak memory, ours", "plain"):
        table.add_column(column, justify="right")
    for result in results:
        memory = [f"{result[f'{which}_peak_mib']:.0f} MiB" for which in ("ours", "plain")]
        table.add_row(result["model"], words(result["ratio"]), f"{result['plain_steps_per_s']:.2f}", *memory)
    Console(width=120).print(table)


if __name__ == "__main__":
    command.run(main)
