"""`i2i-export`: turn a checkpoint into an engine that has been shown to be right."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i2i_runtime import __version__, command
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.config import SIZE

if TYPE_CHECKING:
    from i2i_export.profile import Where
    from i2i_export.request import Request
    from i2i_export.targets import Target
    from i2i_trainer.networks.inference import NormStatistics
    from i2i_trainer.trained import Direction

_BUILD = ("workspace", "optimization_level", "timing_cache", "hardware_compatible", "version_compatible", "no_cache")
_CHECKPOINT_ONLY = (
    "direction",
    "arch",
    "norm_statistics",
    "graph_io",
    "style",
    "fp16",
    "int8",
    "calibration",
    "tileable",
)
"""What an ONNX file has decided already."""
_DYNAMIC_ONLY = ("min_size", "max_size", "max_batch")


_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _WithProfile(click.Command):
    """A command of one FILE that has another command beside it, for which `profile` stands in the file's place."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["profile"]:
            return profile.make_context(f"{info_name} profile", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=_WithProfile, context_settings=_CONTEXT)
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--info", is_flag=True, help="Show what FILE is (checkpoint, .onnx, .plan or .xml) and who can run it.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write the .onnx, .plan or .xml; by default beside the checkpoint.",
)
@click.option(
    "--target",
    type=click.Choice(["onnx", "openvino", "tensorrt", "tensorrt-rtx"]),
    help="What to make; by default what the output's suffix means, .plan with the library that is installed.",
)
@click.option("--fp16", is_flag=True, help="Half precision; layers that the pictures drive out of its range stay FP32.")
@click.option("--int8", is_flag=True, help="8-bit convolutions, calibrated on the pictures.")
@click.option(
    "--calibration",
    type=click.Choice(["percentile", "entropy"]),
    default="percentile",
    show_default=True,
    help="With --int8: how the range of a tensor is chosen.",
)
@click.option("--size", type=SIZE, help="Image size of the engine, N or HEIGHTxWIDTH; by default the training's.")
@click.option("--dynamic", is_flag=True, help="Any size and batch; --size is what a plan is tuned for.")
@click.option("--min-size", type=SIZE, help="With --dynamic: the smallest size of a plan [half of --size].")
@click.option("--max-size", type=SIZE, help="With --dynamic: the largest size of a plan [twice --size].")
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=1, show_default=True, help="With --dynamic: the largest batch."
)
@click.option(
    "--io",
    "graph_io",
    type=click.Choice(["auto", "float", "uint8"]),
    default="auto",
    show_default=True,
    help="float: NCHW in [-1, 1]. uint8: NHWC BGR, conversions inside the graph. auto: uint8 for plans of pictures.",
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
@click.option(
    "--arch",
    metavar="NAME[,KEY=VALUE...]",
    help="Of somebody else's checkpoint: what its keys do not tell, such as resnet_9blocks,norm=batch or labels=35.",
)
@click.option(
    "--tileable", is_flag=True, help="For i2i-run --tile: norms over the whole picture take their statistics from it."
)
@click.option("--pictures", metavar="DIR|GLOB", help="Pictures for the proof; by default those in the checkpoint.")
@click.option("--tolerance", type=click.FloatRange(min=0), help="Largest difference that passes [1e-4; uint8 1].")
@click.option("--min-psnr", type=click.FloatRange(min=0), metavar="DB", help="Lowest PSNR [fp16 45; int8 35].")
@click.option("--workspace", type=click.IntRange(min=1), metavar="MIB", help="Plans: GPU memory for scratch space.")
@click.option("--optimization-level", type=click.IntRange(0, 5), help="Plans: 0 builds fastest, 5 searches longest.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="TensorRT: kernel timings to read and update.")
@click.option("--hardware-compatible", is_flag=True, help="TensorRT: one plan for every GPU from Ampere on.")
@click.option("--version-compatible", is_flag=True, help="TensorRT: a plan for later releases, too.")
@click.option("--no-cache", is_flag=True, help="Plans: build, whether or not the same plan was built before.")
@click.option(
    "--triton", type=click.Path(path_type=Path), metavar="DIR", help="Also add the model to a Triton model repository."
)
@command.debug_option
@click.version_option(__version__, prog_name="i2i-export")
def i2i_export(
    file: Path, info: bool, output: Path | None, target: Target | None, debug: bool, **settings: Any
) -> None:
    """Turn the generator of a checkpoint into an engine and prove it against PyTorch on real pictures.

    FILE is a checkpoint of i2i-train, somebody else's generator (pix2pix, CycleGAN, pix2pixHD, CUT, GAN Compression),
    or an ONNX file to build a plan from, as on a Jetson.

    i2i-export profile measures instead what this machine takes for students of i2i-train distill; see
    i2i-export profile --help.

    \b
    i2i-export runs/facades/best.pt -o facades.onnx
    i2i-export latest_net_G.pth --fp16 -o zebra.plan
    i2i-export zebra.plan.onnx -o zebra.plan
    i2i-export --info zebra.plan
    i2i-export profile -o machine.json
    """  # noqa: D301
    given = _given()
    is_onnx = file.suffix.lower() == ".onnx"
    needs_torch = file.suffix.lower() not in (".onnx", ".plan", ".engine", ".xml")
    if info:
        if given - {"file", "info", "debug"}:
            raise UsageError("--info shows what FILE is and makes nothing; leave the other options out")
        _require_libraries(["torch"] if needs_torch else ["onnx"] if is_onnx else [])
        from i2i_export.info import show_info

        show_info(file)
        return
    if settings["fp16"] and settings["int8"]:
        raise UsageError("--fp16 and --int8: expected one of them")
    if settings["tileable"] and settings["int8"]:
        raise UsageError(
            "--tileable and --int8: the ranges of 8 bits are those of whole pictures; expected one of them"
        )
    _refuse(given, _DYNAMIC_ONLY, settings["dynamic"], "expected --dynamic beside it")
    _refuse(given, ("calibration",), settings["int8"], "expected --int8 beside it")
    _refuse(
        given, _CHECKPOINT_ONLY, not is_onnx, f"{file} is an ONNX file and has decided; export its checkpoint again"
    )
    _require_libraries(["onnx"] if is_onnx else ["torch", "onnx", "onnxscript", "onnxruntime"])
    from i2i_export.targets import PLANS, SUFFIXES, choose_target

    target = choose_target(target, output)
    _refuse(given, _BUILD, target in PLANS, f"it is for plans, and the target is {target}")
    _refuse(given, ("dynamic", "size"), not is_onnx or target in PLANS, f"the sizes are those of {file}")
    _refuse(given, ("size",), not is_onnx or settings["dynamic"], f"the size is that of {file}")
    if output is None:
        output = file if is_onnx and target == "onnx" else file.with_suffix(SUFFIXES[target][0])
    elif is_onnx and target == "onnx":
        raise UsageError(f"{file} is an ONNX file already; expected -o NAME.plan, -o NAME.xml or --triton DIR alone")
    request = _request(output, target, settings)
    if is_onnx:
        from i2i_export.from_onnx import deliver_onnx

        deliver_onnx(file, request)
        return
    from i2i_export.delivery import deliver_checkpoint
    from i2i_trainer.trained import load_trained

    direction: Direction | None = settings["direction"]
    statistics: NormStatistics | None = {"image": "image", "running": "running"}.get(settings["norm_statistics"])  # type: ignore[assignment]
    trained = load_trained(file, direction=direction, statistics=statistics, arch=settings["arch"])
    deliver_checkpoint(trained, request)


@click.command(context_settings=_CONTEXT)
@click.option(
    "--device",
    type=click.Choice(["here", "cpu", "cuda"]),
    default="here",
    show_default=True,
    help="Engines on the CPU, on an NVIDIA GPU, or all that are here.",
)
@click.option("--size", type=SIZE, default="256", show_default=True, help="Image size, N or HEIGHTxWIDTH.")
@click.option(
    "--input-channels",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="What students take: of pictures 3, of label maps one for each class and one for edges.",
)
@click.option(
    "--output-channels", type=click.IntRange(min=1), default=3, show_default=True, help="What students return."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of an inference; by default the engine's own.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="machine.json", show_default=True, help="What to write."
)
@command.debug_option
def profile(
    device: Where,
    size: tuple[int, int],
    input_channels: int,
    output_channels: int,
    threads: int | None,
    output: Path,
    debug: bool,
) -> None:
    """Measure what the parts of students take in every engine of this machine, in about three minutes.

    i2i-train distill --budget 60fps --engine-profile machine.json then chooses the largest student that is quick
    enough here. Neither a checkpoint nor PyTorch is needed, so that it can be run on the box that the student is for.
    Run it at the size and the channels of the training, with nothing beside it.

    \b
    i2i-export profile -o machine.json
    i2i-export profile --device cpu --threads 2 --size 360x640 -o box.json
    """  # noqa: D301
    _require_libraries(["onnx"], "measuring", "onnx")  # not the extra: it has PyTorch
    from i2i_export.profile import profile_machine

    profile_machine(output, device, size, (input_channels, output_channels), threads)


def _given() -> set[str]:
    """Names of the parameters that stand on the command line."""
    context = click.get_current_context()
    from_line = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is from_line}


def _refuse(given: set[str], names: Collection[str], fits: bool, why: str) -> None:
    """Refuse the first of some options that was given where it has no effect."""
    if not fits and (useless := [name for name in names if name in given]):
        option = "--io" if useless[0] == "graph_io" else "--" + useless[0].replace("_", "-")
        raise UsageError(f"{option}: {why}")


def _request(output: Path, target: Target, settings: dict[str, Any]) -> Request:
    from i2i_export.request import Request
    from i2i_runtime.engines.build import BuildOptions

    return Request(
        output=output,
        target=target,
        precision="fp16" if settings["fp16"] else "int8" if settings["int8"] else "fp32",
        is_dynamic=settings["dynamic"],
        is_tileable=settings["tileable"],
        build=BuildOptions(
            workspace_mib=settings["workspace"],
            **{
                name: settings[name]
                for name in ("optimization_level", "timing_cache", "hardware_compatible", "version_compatible")
            },
        ),
        use_cache=not settings["no_cache"],
        **{
            name: settings[name]
            for name in ("graph_io", "size", "min_size", "max_size", "max_batch", "style", "pictures", "tolerance")
        },
        **{name: settings[name] for name in ("min_psnr", "calibration", "triton")},
    )


def _require_libraries(names: list[str], what: str = "exporting", install: str = "'i2i[export,cpu]'") -> None:
    import importlib

    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ModelError(f"{what} needs {error.name}; pip install {install}") from error


def main() -> None:
    """Entry point of the `i2i-export` command."""
    command.run(i2i_export)
