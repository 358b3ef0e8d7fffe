"""From a generator's architecture, as a card states it, to a network."""

from __future__ import annotations

import typing
import warnings
from typing import Any

import torch
from torch import nn

from i2i_runtime.card import Architecture, SizeRule
from i2i_runtime.errors import ModelError, UsageError, reason
from i2i_trainer.config import Size
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.mobile_resnet import MobileResnetGenerator
from i2i_trainer.networks.pix2pixhd import GlobalGenerator, LocalEnhancer
from i2i_trainer.networks.resnet import ResnetGenerator, resnet_blocks
from i2i_trainer.networks.student import StudentGenerator, student_blocks
from i2i_trainer.networks.unet import UnetGenerator, unet_downs

_MOBILE = "mobile_"
_PIX2PIXHD: dict[str, type[nn.Module]] = {"global": GlobalGenerator, "local": LocalEnhancer}


def build_generator(architecture: Architecture) -> nn.Module:
    """The generator with PyTorch's initial weights.

    Raises:
        ModelError: an architecture or an argument that this version does not know.
    """
    name, arguments = architecture.name, dict[str, Any](architecture.arguments)
    try:
        network, number = _network(name)
        return network(*number, **arguments)
    except (TypeError, KeyError, UsageError) as error:
        raise ModelError(f"generator {name}: not one that can be built ({error})") from error


def argument_kinds(name: str) -> dict[str, Any]:
    """The arguments that a generator takes, with their types.

    Raises:
        UsageError: a name that is no generator's.
    """
    network, number = _network(name)
    # __init__ as a function, not as the method of an instance that may belong to a subclass.
    kinds = typing.get_type_hints(vars(network)["__init__"])
    del kinds["return"]
    return dict(list(kinds.items())[len(number) :])


def _network(name: str) -> tuple[type[nn.Module], tuple[int, ...]]:
    """The class of a generator, and the number in its name where there is one: its first argument."""
    if name.startswith("unet_"):
        return UnetGenerator, (unet_downs(name),)
    if name.startswith("resnet_"):
        return ResnetGenerator, (resnet_blocks(name),)
    if name.startswith(_MOBILE):
        return MobileResnetGenerator, (resnet_blocks(name.removeprefix(_MOBILE)),)
    if name.startswith("student_"):
        return StudentGenerator, (student_blocks(name),)
    if name in _PIX2PIXHD:
        return _PIX2PIXHD[name], ()
    raise UsageError(
        f"generator {name!r}: expected unet_N, resnet_Nblocks, mobile_resnet_Nblocks, student_Nblocks, global or local"
    )


def new_generator(architecture: Architecture) -> nn.Module:
    """The generator with fresh weights, as the papers draw them; a student draws its own.

    Raises:
        UsageError: a setting that makes no network.
    """
    side = size_rule(architecture).minimum
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generator = build_generator(architecture)
            # A width of 0 can be built, with a warning, and not be used.
            channels = int(architecture.arguments.get("input_channels", 3))
            generator.eval()(torch.zeros(1, channels, side, side))
    except ModelError as error:
        raise UsageError(str(error)) from None
    except (ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        its = ", ".join(f"{key}={value}" for key, value in architecture.arguments.items())
        raise UsageError(f"generator {architecture.name} with {its}: not one that works ({reason(error)})") from None
    generator.train()
    if isinstance(generator, StudentGenerator):
        generator.init_weights()
    else:
        init_weights(generator)
    return generator


def size_rule(architecture: Architecture) -> SizeRule:
    """The image sizes that a generator takes.

    Raises:
        UsageError: a name that is no generator's.
    """
    name, arguments = architecture.name, architecture.arguments
    if name.startswith("unet_"):
        multiple = 2 ** unet_downs(name)
        return SizeRule(multiple_of=multiple, minimum=multiple)
    if name.startswith(("resnet_", _MOBILE)):
        resnet_blocks(name.removeprefix(_MOBILE))
        multiple = 2 ** int(arguments.get("n_downsampling", 2))
    elif name.startswith("student_"):
        student_blocks(name)
        multiple = 4
    elif name in _PIX2PIXHD:
        # What an architecture leaves out has the network's own default.
        halvings = int(arguments.get("n_downsampling", 4))
        multiple = 2 ** (halvings + (int(arguments.get("n_enhancers", 1)) if name == "local" else 0))
    else:
        raise UsageError(f"--generator {name}: expected unet_256, unet_128, resnet_9blocks, resnet_6blocks, ...")
    # A border of one pixel is reflected at the smallest size: it must be more than one pixel. A border of three is
    # reflected at full size. And an instance norm has nothing to do on one pixel.
    return SizeRule(multiple_of=multiple, minimum=max(2 * multiple, 4))


def check_size(architecture: Architecture, size: Size) -> None:
    """Refuse training images of a size that a generator does not take.

    Raises:
        UsageError: says which it takes.
    """
    rule = size_rule(architecture)
    if not rule.allows(size):
        raise UsageError(
            f"--size {size[0]}x{size[1]}: {architecture.name} takes multiples of {rule.multiple_of} from "
            f"{rule.minimum} on; use another size or another generator"
        )
