"""`i2i-export`: turn a checkpoint into an engine that has been shown to be right."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from i2i_runtime import __version__, command
from i2i_runtime.errors import ModelError, SinkError, UsageError
from i2i_trainer.config import SIZE

if TYPE_CHECKING:
    from i2i_export.graph import GraphIo
    from i2i_export.parity import Example
    from i2i_runtime.card import Card, ParityRecord
    from i2i_trainer.networks.inference import NormStatistics
    from i2i_trainer.trained import Direction, Trained


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write the .onnx file; by default beside the checkpoint.",
)
@click.option("--size", type=SIZE, help="Image size of the engine, N or HEIGHTxWIDTH; by default the training's.")
@click.option(
    "--io",
    "graph_io",
    type=click.Choice(["float", "uint8"]),
    default="float",
    show_default=True,
    help="float: NCHW in [-1, 1], the fastest on a CPU. uint8: NHWC BGR, with the conversions inside the graph.",
)
@click.option(
    "--norm-statistics",
    type=click.Choice(["auto", "image", "running"]),
    default="auto",
    show_default=True,
    help="Batch norm with each image's own statistics or the training's; auto: image if trained at batch 1.",
)
@click.option(
    "--direction",
    type=click.Choice(["AtoB", "BtoA"]),
    help="Of a CycleGAN, which generator; by default the training's.",
)
@click.option("--style", type=int, metavar="K", help="Of a model with styles, build in style K; by default an input.")
@click.option("--pictures", metavar="DIR|GLOB", help="Pictures for the proof; by default those in the checkpoint.")
@click.option("--tolerance", type=click.FloatRange(min=0), help="Largest difference that passes [1e-4; uint8: 1].")
@command.debug_option
@click.version_option(__version__, prog_name="i2i-export")
def i2i_export(
    checkpoint: Path,
    output: Path | None,
    size: tuple[int, int] | None,
    graph_io: GraphIo,
    norm_statistics: str,
    direction: Direction | None,
    style: int | None,
    pictures: str | None,
    tolerance: float | None,
    debug: bool,
) -> None:
    """Export the generator of CHECKPOINT to ONNX and compare it with PyTorch on real pictures.

    \b
    i2i-export runs/facades/best.pt -o facades.onnx
    """  # noqa: D301
    output = output or checkpoint.with_suffix(".onnx")
    if output.suffix.lower() != ".onnx":
        raise UsageError(f"--output {output}: expected a name ending in .onnx")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ModelError(f"exporting needs {error.name}; pip install 'i2i[export,cpu]'") from error
    statistics: NormStatistics | None = None if norm_statistics == "auto" else norm_statistics  # type: ignore[assignment]
    from i2i_trainer.trained import load_trained

    trained = load_trained(checkpoint, direction=direction, statistics=statistics)
    _export(trained, output, size or _training_size(trained.card, checkpoint), graph_io, style, pictures, tolerance)


def _export(
    trained: Trained,
    output: Path,
    size: tuple[int, int],
    graph_io: GraphIo,
    style: int | None,
    pictures: str | None,
    tolerance: float | None,
) -> None:
    from dataclasses import replace

    from i2i_export.graph import build_graph, exported_card, save_with_card
    from i2i_export.parity import TOLERANCE, measure_parity
    from i2i_runtime.engines.open import open_engine
    from i2i_runtime.image import make_folder

    _check_size(size, trained.card)
    proof = _read_pictures(pictures, trained.card) if pictures else trained.examples
    tolerance = TOLERANCE[graph_io] if tolerance is None else tolerance
    make_folder(output.parent)

    began = time.monotonic()
    click.echo(f"exporting {trained.card.generator.name} at {size[0]}x{size[1]}, {graph_io} I/O ...", err=True)
    card = exported_card(trained.card, size=size, graph_io=graph_io, statistics=trained.statistics, style=style)
    model = build_graph(trained.generator, size, graph_io, card)
    beside = output.with_name(f".{output.stem}.partial.onnx")
    try:
        save_with_card(model, card, beside)
        with open_engine(beside, device="cpu") as engine:
            record = measure_parity(trained.generator, engine, card, proof, tolerance)
        _show(record, graph_io)
        if record.max_abs > tolerance:
            raise ModelError(
                f"{output}: differs from PyTorch by {record.max_abs:.3g}, expected at most {tolerance:g}; nothing was "
                "written"
            )
        save_with_card(model, replace(card, parity=(record,)), beside)
        beside.replace(output)
    except OSError as error:
        raise SinkError(f"{output}: cannot be written ({error.strerror})") from error
    finally:
        beside.unlink(missing_ok=True)
    megabytes = output.stat().st_size / 1e6
    click.echo(f"{output}: {megabytes:.1f} MB, {time.monotonic() - began:.1f} s")


def _training_size(card: Card, checkpoint: Path) -> tuple[int, int]:
    if card.training is None:
        raise UsageError(f"{checkpoint}: its card names no training size; give --size")
    return card.training.size


def _check_size(size: tuple[int, int], card: Card) -> None:
    multiple, minimum = card.size.multiple_of, card.size.minimum
    if not card.size.allows(size):
        raise UsageError(
            f"--size {size[0]}x{size[1]}: {card.generator.name} takes multiples of {multiple} from {minimum} on"
        )


def _read_pictures(where: str, card: Card) -> list[Example]:
    import torch

    from i2i_runtime.image import image_to_tensor
    from i2i_runtime.sources.images import ImagesSource

    if card.labels is not None or card.input.channels not in (1, 3):
        raise UsageError("--pictures: expected a model of grey or colour pictures; this one is proven on its examples")
    with ImagesSource(where) as source:
        examples = [{"input": torch.from_numpy(image_to_tensor(frame.image, card.input)[0])} for frame in source]
        for line in source.skipped:
            click.echo(f"skipped: {line}", err=True)
    return list(examples)


def _show(record: ParityRecord, graph_io: GraphIo) -> None:
    from rich.console import Console
    from rich.table import Table

    unit = "grey levels" if graph_io == "uint8" else "of [-1, 1]"
    table = Table(title=f"PyTorch against {record.engine}, {record.pictures} pictures")
    for column in (f"max abs ({unit})", "mean abs", "PSNR", "tolerance", "verdict"):
        table.add_column(column, justify="right")
    passes = record.max_abs <= record.tolerance
    table.add_row(
        f"{record.max_abs:.2e}",
        f"{record.mean_abs:.2e}",
        f"{record.psnr_db:.1f} dB",
        f"{record.tolerance:g}",
        "same" if passes else "DIFFERS",
    )
    Console().print(table)


def main() -> None:
    """Entry point of the `i2i-export` command."""
    command.run(i2i_export)
