"""Export every generator in every precision, static and dynamic, and build it with TensorRT-RTX: one table.

    python benchmarks/export_table.py [--full] [--only NAME] [--json FILE] [--markdown FILE]

Each row goes the whole way of `i2i-export ... -o model.plan`: the graph passes onnx.checker in full mode, its result is
compared with PyTorch (FP32 and INT8 in ONNX Runtime, FP16 in emulated FP16 arithmetic and in ONNX Runtime), and a plan
is built, for which no GPU is needed. Networks have their initial weights and small widths, or with `--full` those of
the papers. The exit code is 1 where a row fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch
from rich.console import Console
from rich.table import Table

from i2i_export.delivery import deliver_graph, prepare
from i2i_export.graph import build_graph
from i2i_export.proof import drawn_pictures
from i2i_export.request import Precision, Request
from i2i_runtime.card import Architecture, Card, ImageSpec, LabelSpec
from i2i_runtime.engines.manifest import read_manifest
from i2i_runtime.errors import I2IError
from i2i_trainer.networks.build import new_generator, size_rule
from i2i_trainer.networks.inference import as_used
from i2i_trainer.trained import Trained
from measuring.environment import environment
from measuring.figures import write_figures

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
LABELS = 35
"""Classes of Cityscapes."""


@dataclass(frozen=True)
class Generator:
    """One line of the table, and what to export for it."""

    name: str
    architecture: str
    small: dict[str, int]
    full: dict[str, int]
    small_size: tuple[int, int]
    full_size: tuple[int, int]
    takes_labels: bool = False


_HD_SMALL, _HD_FULL = {"ngf": 8, "n_downsampling": 3, "n_blocks": 3}, {"ngf": 64}
GENERATORS = (
    Generator("unet_128", "unet_128", {"ngf": 8}, {"ngf": 64}, (128, 128), (128, 128)),
    Generator("unet_256", "unet_256", {"ngf": 8}, {"ngf": 64}, (256, 256), (256, 256)),
    Generator("resnet_6", "resnet_6blocks", {"ngf": 8}, {"ngf": 64}, (64, 64), (256, 256)),
    Generator("resnet_9", "resnet_9blocks", {"ngf": 8}, {"ngf": 64}, (64, 64), (256, 256)),
    Generator("hd_global", "global", _HD_SMALL, _HD_FULL, (64, 128), (256, 512), True),
    Generator(
        "hd_local x1",
        "local",
        _HD_SMALL | {"n_enhancers": 1},
        _HD_FULL | {"n_enhancers": 1},
        (64, 128),
        (256, 512),
        True,
    ),
    Generator(
        "hd_local x2",
        "local",
        _HD_SMALL | {"n_enhancers": 2},
        _HD_FULL | {"n_enhancers": 2},
        (64, 128),
        (256, 512),
        True,
    ),
)


@dataclass(frozen=True)
class Row:
    """What came of one export."""

    generator: str
    precision: str
    sizes: str
    failure: str | None = None
    onnx_mb: float | None = None
    nodes: int | None = None
    max_abs: float | None = None
    """Of ONNX Runtime against PyTorch, in [-1, 1]."""
    onnx_runtime_db: float | None = None
    """PSNR of the worst picture."""
    emulated_db: float | None = None
    """The same in true FP16 arithmetic."""
    kept_fp32: int = 0
    """Layers that stay in FP32 because the pictures asked for it."""
    build_s: float | None = None
    plan_mb: float | None = None


def rows(full: bool, only: str | None, precisions: Sequence[Precision]) -> Iterator[Row]:
    """Export and build, one row after the other."""
    for generator, is_dynamic in itertools.product(GENERATORS, (False, True)):
        if only is not None and only not in generator.name:
            continue
        trained = untrained(generator, full)
        graph: onnx.ModelProto | None = None
        for precision in precisions:
            with tempfile.TemporaryDirectory() as folder:
                request = Request(
                    output=Path(folder, "model.plan"),
                    target="tensorrt-rtx",
                    precision=precision,
                    graph_io="float",
                    size=generator.full_size if full else generator.small_size,
                    is_dynamic=is_dynamic,
                    max_batch=2 if is_dynamic else 1,
                    use_cache=False,
                )
                sizes = "dynamic" if is_dynamic else "static"
                try:
                    card, examples = prepare(trained, request)
                    # The FP32 graph is the same for all three.
                    graph = graph or build_graph(trained.generator, card)
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        began = time.perf_counter()
                        card = deliver_graph(graph, trained, card, examples, request)
                    print(f"{generator.name} {precision} {sizes}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
                    yield measured(Row(generator.name, precision, sizes), card, request.output)
                except I2IError as error:
                    yield Row(generator.name, precision, sizes, failure=str(error))


def measured(row: Row, card: Card, plan: Path) -> Row:
    """The row with the figures that the export left."""
    assert card.export is not None
    by_engine = {record.engine: record for record in card.parity}
    ort, emulated = by_engine["ONNX Runtime CPU"], by_engine.get("FP16 emulation")
    graph = plan.with_name(f"{plan.name}.onnx")
    manifest = read_manifest(plan)
    assert manifest is not None
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    return Row(
        **{
            **asdict(row),
            "onnx_mb": graph.stat().st_size / 1e6,
            "nodes": len(model.graph.node),
            "max_abs": ort.max_abs,
            "onnx_runtime_db": ort.worst_psnr_db,
            "emulated_db": emulated.worst_psnr_db if emulated is not None else None,
            "kept_fp32": len(card.export.kept_fp32),
            "build_s": manifest.build_seconds,
            "plan_mb": plan.stat().st_size / 1e6,
        }
    )


def untrained(generator: Generator, full: bool) -> Trained:
    """A generator with initial weights, and drawn pictures or label maps to prove its export on."""
    torch.manual_seed(0)
    labels = LabelSpec(count=LABELS, instance_edges=True) if generator.takes_labels else None
    channels = LABELS + 1 if generator.takes_labels else 3
    arguments = {"input_channels": channels, **(generator.full if full else generator.small)}
    architecture = Architecture(name=generator.architecture, arguments=dict(arguments))
    card = Card(
        name=generator.name,
        model_type="pix2pixhd" if generator.takes_labels else "pix2pix",
        direction="AtoB",
        generator=architecture,
        input=ImageSpec.of(1 if generator.takes_labels else 3),
        output=ImageSpec.of(3),
        size=size_rule(architecture),
        labels=labels,
    )
    # INT8 takes its ranges from one and is proven on the other.
    pictures = drawn_pictures(card, generator.full_size if full else generator.small_size)[:2]
    examples = [{name: torch.from_numpy(part) for name, part in picture.items()} for picture in pictures]
    network = as_used(new_generator(architecture), "image", labels)
    return Trained(generator=network, card=card, examples=examples, statistics="image")


_NAMES = ("generator", "precision", "sizes")
COLUMNS = (*_NAMES, "ONNX MB", "nodes", "ORT max abs", "ORT dB", "FP16 dB", "kept", "RTX s", "plan MB")


def cells(row: Row) -> list[str]:
    """A row as text."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    if row.failure is not None:
        return [row.generator, row.precision, row.sizes, row.failure]
    return [
        row.generator,
        row.precision,
        row.sizes,
        number(row.onnx_mb, ".2f"),
        str(row.nodes),
        number(row.max_abs, ".1e"),
        number(row.onnx_runtime_db, ".1f"),
        number(row.emulated_db, ".1f"),
        str(row.kept_fp32),
        number(row.build_s, ".1f"),
        number(row.plan_mb, ".2f"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the papers' widths: about half an hour, 8 GiB")
    parser.add_argument("--only", help="generators whose name has this in it")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="these only")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args(arguments)

    machine = environment(sys.argv)
    began = time.monotonic()
    found = list(rows(options.full, options.only, options.precisions))
    table = Table(
        title=f"{'Full' if options.full else 'Small'} widths, initial weights, {time.monotonic() - began:.0f} s"
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in _NAMES else "right")
    for row in found:
        table.add_row(*cells(row))
    Console(width=130).print(table)
    if options.json:
        write_figures(options.json, machine, {"full": options.full, "rows": [asdict(row) for row in found]})
    if options.markdown:
        lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(cells(row))} |" for row in found]
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any(row.failure is not None for row in found))


if __name__ == "__main__":
    sys.exit(main())
