"""`i2i-eval`: measure a checkpoint or an exported engine on held-out pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i2i_runtime import __version__, command
from i2i_runtime.errors import ModelError, SinkError, SourceError, UsageError
from i2i_trainer.config import SIZE, RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from i2i_runtime.card import Card
    from i2i_trainer.data.dataset import DataKind
    from i2i_trainer.data.transforms import Sample
    from i2i_trainer.evaluation import Directions, Translate
    from i2i_trainer.trained import Direction

_STRIP = 6
_UNITS = {"L1": "of [-1, 1]", "PSNR": "dB", "cycle_L1": "of [-1, 1]"}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", metavar="CKPT|ENGINE", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of pictures, as for training.")
@click.option("--split", help="Part of the data, for example test; by default test, else val.")
@click.option("--features", type=click.Path(path_type=Path), help="TorchScript feature network, for FID and KID.")
@click.option("--pictures", type=click.IntRange(min=1), help="How many, evenly spaced; by default all.")
@click.option("--size", type=SIZE, help="Image size, N or HEIGHTxWIDTH; by default the training's or the engine's.")
@click.option("--direction", type=click.Choice(["AtoB", "BtoA"]), help="Of a CycleGAN checkpoint, which generator.")
@click.option("--style", type=click.IntRange(min=0), help="Of a model with styles, which one; by default the first.")
@click.option(
    "--teacher",
    type=click.Path(path_type=Path),
    help="Checkpoint or engine that this one should repeat: how near it is.",
)
@click.option(
    "--strip", type=click.Path(path_type=Path), help="Draw six pictures: input, output, the teacher's, target."
)
@click.option("--skip-unreadable", is_flag=True, help="Leave broken pictures out instead of ending.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here, too.")
@command.debug_option
@click.version_option(__version__, prog_name="i2i-eval")
def i2i_eval(
    model: Path,
    data: Path,
    split: str | None,
    features: Path | None,
    pictures: int | None,
    size: tuple[int, int] | None,
    direction: Direction | None,
    style: int | None,
    teacher: Path | None,
    strip: Path | None,
    skip_unreadable: bool,
    json_path: Path | None,
    debug: bool,
) -> None:
    """Measure a checkpoint or an engine on held-out pictures.

    L1, PSNR and SSIM of pairs; the error of a picture translated there and back of CycleGAN checkpoints; FID and KID
    of both with a feature network; with --teacher how near its outputs come to those of another model.

    \b
    i2i-eval runs/facades/best.pt --data facades
    i2i-eval zebra.onnx --data horse2zebra --features inception-2015-12-05.pt
    i2i-eval small.onnx --data horse2zebra --teacher runs/zebra/best.pt --strip small.png
    """  # noqa: D301
    try:
        import torch  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise ModelError(f"evaluating needs {error.name}; pip install 'i2i[train]'") from error
    from i2i_trainer.data.dataset import open_split
    from i2i_trainer.data.transforms import Preprocess
    from i2i_trainer.evaluation import TO_TEACHER, Directions, evaluate, imitated
    from i2i_trainer.metrics import FeatureNetwork

    network = FeatureNetwork(features) if features else None
    card, kind, directions = _open(model, direction, style)
    size = _size_of(card, model, size)
    master = _teacher(teacher, card, size, style) if teacher is not None else None
    run = RunConfig(
        data=str(data),
        size=size,
        direction=card.direction,
        input_channels=card.input.channels,
        output_channels=card.output.channels,
        label_nc=card.labels.count if card.labels else 0,
        instances=bool(card.labels and card.labels.instance_edges),
        skip_unreadable=skip_unreadable,
    )
    preprocess = Preprocess(size=size, load_size=size, flip=False)
    dataset = open_split(run, kind, preprocess, (split,) if split else ("test", "val"))
    if dataset is None:
        raise SourceError(f"{data}: expected pictures of {split or 'test or val'}, found none; choose with --split")
    figures, count = evaluate(directions, kind, dataset.evenly(pictures), network)
    if master is not None:
        near, count = evaluate(Directions(there=directions.there), "paired", imitated(master, dataset.evenly(pictures)))
        figures |= {f"{name}{TO_TEACHER}": value for name, value in near.items()}
    if strip is not None:
        _draw(strip, dataset.evenly(_STRIP), directions.there, master, has_targets=kind == "paired")
    if not figures and network is None:
        raise UsageError(f"{model}: nothing to measure without pairs and a way back; give --features or --teacher FILE")
    result = {
        "model": model.name,
        "data": data.resolve().name,
        "pictures": count,
        "size": list(size),
        "direction": card.direction,
        **figures,
        "features": network.description if network else None,
    }
    _show(result, figures)
    if network is not None and "FID" not in figures:
        click.echo(f"FID and KID: not measured. They need two pictures or more, found {count}.", err=True)
    if network is None:
        click.echo(f"FID and KID: not measured. {FeatureNetwork.HOW_TO_GET}", err=True)
    if json_path is not None:
        try:
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{json_path}: cannot be written ({error.strerror})") from error


def _open(path: Path, direction: Direction | None, style: int | None) -> tuple[Card, DataKind, Directions]:
    """What a file translates, what kind of data it was trained on, and the functions it holds."""
    from i2i_trainer.models import model_names, model_type

    card, directions = (_checkpoint if path.suffix == ".pt" else _engine)(path, direction, style)
    if card.model_type not in model_names():
        raise ModelError(f"{path}: expected a model of {', '.join(model_names())}, found {card.model_type}")
    styles = card.labels.styles if card.labels else 0
    if style is not None and style >= styles:
        raise UsageError(f"--style {style}: this model has {f'styles 0 to {styles - 1}' if styles else 'no styles'}")
    built_in = card.export.style if card.export else None
    if built_in is not None and style not in (None, built_in):
        raise UsageError(f"--style {style}: {path} was exported with --style {built_in}")
    return card, model_type(card.model_type).data, directions


def _teacher(path: Path, pupil: Card, size: tuple[int, int], style: int | None) -> Translate:
    """Another model's function for the same pictures."""
    card, _, directions = _open(path, pupil.direction, style if pupil.labels and pupil.labels.styles else None)
    wanted, found = ((its.input.channels, its.output.channels, its.labels) for its in (pupil, card))
    if wanted != found or not card.size.allows(size):
        raise UsageError(f"--teacher {path}: expected a model of the same pictures, {size[0]}x{size[1]}, found another")
    return directions.there


def _draw(
    path: Path, samples: Iterable[Sample], own: Translate, teacher: Translate | None, *, has_targets: bool
) -> None:
    """A row for each picture, for the eye."""
    from i2i_runtime.image import make_folder, write_image
    from i2i_trainer.data.batches import stack
    from i2i_trainer.data.transforms import to_image
    from i2i_trainer.record import grid

    rows = []
    for sample in samples:
        if "input" not in sample:
            continue
        batch = stack([sample])
        shown = [batch["input"], own(batch)]
        if teacher is not None:
            shown.append(teacher(batch))
        if has_targets:
            shown.append(batch["target"])
        rows.append([to_image(images[0].float().cpu()) for images in shown])
    titles = ["input", "output", *(["teacher"] if teacher else []), *(["target"] if has_targets else [])]
    make_folder(path.parent)
    write_image(path, grid(rows, titles))


def _checkpoint(path: Path, direction: Direction | None, style: int | None) -> tuple[Card, Directions]:
    import torch

    from i2i_trainer.evaluation import Directions, translate_with
    from i2i_trainer.trained import choose_direction, load_directions

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learnt = load_directions(path)
    there = choose_direction(learnt, direction, path)
    back = [each for each in learnt.values() if each is not there]
    functions = [translate_with(each.generator.to(device), device, style or 0) for each in (there, *back)]
    return there.card, Directions(there=functions[0], back=functions[1] if back else None)


def _engine(path: Path, direction: Direction | None, style: int | None) -> tuple[Card, Directions]:
    import torch

    from i2i_runtime.engines.open import open_engine
    from i2i_trainer.data.transforms import to_image, to_tensor
    from i2i_trainer.evaluation import Directions, inputs_of

    engine = open_engine(path)
    card = engine.card
    if card is None:
        raise ModelError(f"{path}: it carries no card, so what it was trained on is unknown; evaluate the checkpoint")
    if direction not in (None, card.direction):
        raise UsageError(f"--direction {direction}: {path} translates {card.direction}; export the other direction")
    channels = card.input.channels
    if channels not in (1, 3) and engine.inputs[0].dtype == "uint8":
        raise ModelError(f"{path}: expected 1 or 3 channels, found {channels}")

    def translate(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if engine.inputs[0].dtype == "uint8":
            return to_tensor(engine.run(to_image(batch["input"][0])[None, :, :, :channels])[0])[None]
        given: list[Any] = [tensor.numpy() for tensor in inputs_of(batch, torch.device("cpu"))]
        if engine.inputs[-1].name == "style":
            given.append(torch.tensor([style or 0]).numpy())
        return torch.from_numpy(engine.run(*given))

    return card, Directions(there=translate)


def _size_of(card: Card, path: Path, wanted: tuple[int, int] | None) -> tuple[int, int]:
    rule = card.size
    if rule.height and rule.width:
        if wanted not in (None, (rule.height, rule.width)):
            raise UsageError(f"--size: {path} takes {rule.height}x{rule.width} only; leave the flag out")
        return rule.height, rule.width
    if wanted is not None and not rule.allows(wanted):
        raise UsageError(
            f"--size {wanted[0]}x{wanted[1]}: {path} takes multiples of {rule.multiple_of} from {rule.minimum} on"
        )
    if wanted is not None:
        return wanted
    if card.training is None:
        raise UsageError(f"{path}: its card names no size; give --size")
    return card.training.size


def _show(result: dict[str, Any], figures: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    from i2i_trainer.evaluation import TO_TEACHER

    height, width = result["size"]
    table = Table(title=f"{result['model']} on {result['pictures']} pictures of {result['data']}, {height}x{width}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        unit = _UNITS.get(name.removesuffix(TO_TEACHER))
        table.add_row(f"{name} ({unit})" if unit else name, f"{value:.4f}")
    console = Console()
    console.print(table)
    if result["features"]:
        console.print(f"features: {result['features']}", highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point of the `i2i-eval` command."""
    command.run(i2i_eval)


if __name__ == "__main__":
    main()
