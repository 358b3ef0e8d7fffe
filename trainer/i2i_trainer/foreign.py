"""Other people's checkpoints: which generator a state dict belongs to, by its keys and shapes alone.

Known are the layouts that these reference implementations publish: pix2pix and CycleGAN in PyTorch (U-Net, ResNet),
CUT (ResNet with blur filters), GAN-Compression (ResNet of depthwise separable blocks) and pix2pixHD (global generator
and local enhancers). Nothing is guessed that would not fit: the network that was recognised must have exactly the
file's keys and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from i2i_runtime.card import Architecture, LabelSpec, decode
from i2i_runtime.errors import ModelError, UsageError, reason
from i2i_trainer.networks.build import argument_kinds, build_generator
from i2i_trainer.networks.layers import NormName
from i2i_trainer.networks.mobile_resnet import mobile_channels
from i2i_trainer.networks.words import Value

Weights = dict[str, Tensor]
Direction = Literal["AtoB", "BtoA"]
_Part = TypeVar("_Part")

_NESTS = ("params_ema", "state_dict", "netG", "G", "generator", "params", "model")
"""Under which names training scripts put a generator's state dict into a larger file; averaged weights first."""
_DIRECTIONS: Mapping[Direction, tuple[str, ...]] = MappingProxyType(
    {"AtoB": ("netG_A", "G_A"), "BtoA": ("netG_B", "G_B")}
)
"""The same, where a file can hold two generators."""
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What DataParallel, DistributedDataParallel and torch.compile put before every key."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_COLOURS = 4
"""Of a picture at most; what has more input channels takes label maps, or should be asked about."""
_CITYSCAPES = 35
"""Classes of pix2pixHD's published models, to which it adds the edges of objects."""
_STATE_IT = "if it is another generator, state it with --arch, for example --arch resnet_9blocks,norm=batch"
_HALVINGS = range(1, 11)
"""Of a residual generator; a key's number can be anything, and the network's width is 2 to the power of it."""
_AS_FOUND: Mapping[str, Value] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A generator that was recognised."""

    architecture: Architecture
    weights: Weights
    """Fits the network of `architecture` exactly; float32."""
    input_channels: int
    output_channels: int
    kind: str
    """What it is in words: "a CycleGAN ResNet"."""
    described: str
    """The architecture in the notation of `--arch`, with every argument."""
    model_type: str
    """The method whose reference implementation publishes this generator."""
    labels: LabelSpec | None
    """What the label maps hold that it takes; None where it takes pictures."""
    notes: tuple[str, ...]
    """What was assumed or left out, each a phrase for the user."""
    has_batch_norms: bool


def state_dicts_of(payload: object, where: str) -> dict[Direction | None, Weights]:
    """Find each generator's state dict in what a file holds, without what its training put around it.

    Args:
        payload: of `read_tensors`.
        where: whose it is, for messages.

    Returns:
        Direction to state dict, key to tensor; AtoB comes first, None where the file does not tell. Floating-point
        tensors are float32.

    Raises:
        ModelError: there is none.
    """
    found = payload
    while isinstance(found, Mapping) and not _is_state_dict(found):
        if {"state", "param_groups"} <= found.keys():
            raise ModelError(f"{where}: this is an optimizer's state; expected the generator's file, latest_net_G.pth")
        nested = {name: part for name, part in found.items() if isinstance(part, Mapping) and part}
        if several := _by_direction(nested):
            return {direction: next(iter(state_dicts_of(part, where).values())) for direction, part in several.items()}
        nest = next((name for name in _NESTS if name in nested), None)
        if nest is None:
            inside = ", ".join(map(str, list(found)[:4])) or "nothing"
            raise ModelError(
                f"{where}: expected a generator's state dict, or one under {', '.join(_NESTS)}, netG_A or netG_B, "
                f"found {inside}"
            )
        found = nested[nest]
    if not isinstance(found, Mapping):
        raise ModelError(f"{where}: expected a generator's state dict, found {type(found).__name__}")
    tensors = {_WRAPPERS.sub("", key): tensor for key, tensor in found.items() if isinstance(tensor, Tensor)}
    return {
        direction: {
            key: tensor.detach().float() if tensor.is_floating_point() else tensor for key, tensor in weights.items()
        }
        for direction, weights in _of_generators(tensors).items()
    }


def _is_state_dict(payload: Mapping[Any, Any]) -> bool:
    values = {k: v for k, v in payload.items() if k != "_metadata" and not isinstance(v, str | int | float | None)}
    return bool(values) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in values.items())


def _by_direction(named: Mapping[Any, _Part]) -> dict[Direction | None, _Part]:
    return {
        direction: named[name]
        for direction, names in _DIRECTIONS.items()
        if (name := next((name for name in names if name in named), None))
    }


def _of_generators(weights: Weights) -> dict[Direction | None, Weights]:
    """Of the state dict of a whole training the generators' parts, for example what begins with `netG.`."""
    if any(key.startswith("model") for key in weights):
        return {None: weights}
    parts: dict[str, Weights] = {}
    for key, tensor in weights.items():
        name, _, rest = key.partition(".")
        parts.setdefault(name, {})[_WRAPPERS.sub("", rest)] = tensor
    if several := _by_direction(parts):
        return several
    return {None: next((parts[name] for name in _NESTS if name in parts), weights)}


def _is_old_statistic(key: str, weights: Weights) -> bool:
    """Whether it belongs to an instance norm of 2018, which gathered averages that nobody used.

    Batch norm has averages too, and a scale and a shift besides.
    """
    norm, _, name = key.rpartition(".")
    return name in _STATISTICS and f"{norm}.weight" not in weights and f"{norm}.bias" not in weights


def recognise(weights: Weights, where: str, overrides: Mapping[str, Value] = _AS_FOUND) -> Foreign:
    """Find the generator whose state dict this is.

    Args:
        weights: of `state_dicts_of`.
        where: whose they are, for messages.
        overrides: of `parse_words`: what keys and shapes cannot tell, or tell wrongly. `labels` is the number of
            classes of the label maps that it takes; 0 where it takes pictures.

    Raises:
        ModelError: no known layout; names the nearest one and what differs.
        UsageError: an override that no generator has.
    """
    whole, weights = weights, {k: t for k, t in weights.items() if not _is_old_statistic(k, weights)}
    facts = _facts(weights, where, overrides)
    architecture = _architecture(facts, overrides)
    name, arguments = architecture.name, architecture.arguments
    described = ",".join([name, *(f"{key}={value}" for key, value in arguments.items())])
    try:
        with torch.device("meta"):
            expected = build_generator(architecture).state_dict()
    except (ModelError, RuntimeError) as error:  # torch refuses impossible sizes with a RuntimeError
        raise ModelError(f"{where}: nearest is {described}: {reason(error)}; {_STATE_IT}") from None
    if differences := _differences(expected, weights):
        raise ModelError(
            f"{where}: it is not {described}, as --arch has it: {differences}; leave --arch out, or state another one"
            if overrides.keys() - {"labels"}
            else f"{where}: nearest is {described}: {differences}; {_STATE_IT}"
        )
    channels = int(arguments["input_channels"])
    return Foreign(
        architecture=architecture,
        weights=weights,
        input_channels=channels,
        output_channels=int(arguments["output_channels"]),
        kind=_kind(architecture),
        described=described,
        model_type=_model_type(architecture),
        labels=_labels(name, channels, overrides.get("labels"), where),
        notes=_notes(architecture, channels, overrides, has_old_statistics=len(weights) < len(whole)),
        has_batch_norms=any(key.endswith(".running_mean") for key in weights),
    )


Facts = dict[str, Value]
"""What keys and shapes tell: `name` of the generator, and arguments of it and of others that the file might be."""


def _facts(weights: Weights, where: str, overrides: Mapping[str, Value]) -> Facts:
    keys = weights.keys()
    if any(key.startswith("model.model.") for key in keys):
        family, read = "a U-Net", _unet
    elif any(re.match(r"model\d+_[12]\.", key) for key in keys):
        family, read = "pix2pixHD's local enhancer", _local
    elif any(re.match(r"model\.\d+\.conv_block\.\d+\.conv\.", key) for key in keys):
        family, read = "GAN-Compression's mobile ResNet", _mobile
    elif any(re.match(r"model\.\d+\.conv_block\.", key) for key in keys):
        family, read = "a ResNet", _resnet
    elif "name" in overrides:
        return {"input_channels": 3, "output_channels": 3}
    else:
        raise ModelError(f"{where}: {_what_else(weights, where)}")
    try:
        return read(weights)
    except (KeyError, IndexError, ValueError) as error:
        missing = error.args[0] if isinstance(error, KeyError) else "a convolution"
        raise ModelError(f"{where}: nearest is {family}, of which {missing} is missing; {_STATE_IT}") from None


def _shape(weights: Weights, key: str) -> tuple[int, ...]:
    return tuple(weights[key].shape)


def _unet(weights: Weights) -> Facts:
    levels = (re.match(r"model\.model\.1((?:\.model\.3)*)\.model\.\d+\.", key) for key in weights)
    deepest = max(level[1].count("3") for level in levels if level)
    ngf, channels = _shape(weights, "model.model.0.weight")[:2]
    return {
        "name": f"unet_{2 ** (deepest + 2)}",
        "input_channels": channels,
        "output_channels": _shape(weights, "model.model.3.weight")[1],
        "ngf": ngf,
        "norm": _norm(weights, "model.model.1.model.2", "model.model.0"),
        # Its layers leave no trace in the keys, and none in what the trained network computes.
        "dropout": 0.0,
    }


def _resnet(weights: Weights) -> Facts:
    facts, last = _residual(weights)
    facts["output_channels"] = _shape(weights, f"model.{last}.weight")[0]
    plain = not facts["antialias_down"] and not facts["antialias_up"] and not facts["dropout"]
    # pix2pixHD's convolutions have a bias, with batch norm too. At two halvings with instance norm its layout is
    # CycleGAN's, and so is what it computes.
    biased = "model.1.bias" in weights
    is_global = (
        plain
        and biased
        and facts["padding"] == "reflect"
        and (facts["n_downsampling"] != 2 or facts["norm"] == "batch")
    )
    facts["name"] = "global" if is_global else f"resnet_{facts['n_blocks']}blocks"
    return facts


def _local(weights: Weights) -> Facts:
    facts, _ = _residual({key: tensor for key, tensor in weights.items() if key.startswith("model.")})
    enhancers = {int(found[1]) for key in weights if (found := re.match(r"model(\d+)_[12]\.", key))}
    outermost = f"model{max(enhancers)}_2"
    last = max(_convolutions(weights, outermost))
    facts["name"] = "local"
    facts["n_enhancers"] = len(enhancers)
    facts["n_local_blocks"] = len(_blocks(weights, outermost))
    facts["output_channels"] = _shape(weights, f"{outermost}.{last}.weight")[0]
    return facts


def _mobile(weights: Weights) -> Facts:
    blocks = _blocks(weights, "model")
    places = sorted({int(key.split(".")[3]) for key in weights if ".conv." in key})
    separable = f"model.{blocks[0]}.conv_block.{places[0]}.conv"
    inner = _norm(weights, f"{separable}.1", f"{separable}.0")
    last = max(_convolutions(weights, "model"))
    first, half, quarter, up_half, up_full, _ = (
        _shape(weights, f"model.{number}.weight")[0 if number < blocks[0] or number == last else 1]
        for number in sorted(_convolutions(weights, "model"))
    )
    middles = [_shape(weights, f"model.{block}.conv_block.{places[0]}.conv.2.weight")[0] for block in blocks]
    channels = [first, half, quarter, *middles, up_half, up_full]
    uniform = channels == mobile_channels(len(blocks), first)
    return {
        "name": f"mobile_resnet_{len(blocks)}blocks",
        "n_blocks": len(blocks),
        "input_channels": _shape(weights, "model.1.weight")[1],
        "output_channels": _shape(weights, f"model.{last}.weight")[0],
        "ngf": first,
        "norm": _norm(weights, "model.2", "model.1"),
        "dropout": 0.0,
        "padding": "zero" if places[0] == 0 else "reflect",
        "channels": "" if uniform else "_".join(map(str, channels)),
        "inner_norm": "instance" if inner == "none" else inner,
        "separable_bias": f"{separable}.0.bias" in weights,
    }


def _residual(weights: Weights) -> tuple[Facts, int]:
    """What residual generators have in common, and the number of the last convolution."""
    blocks = _blocks(weights, "model")
    filters = {int(key.split(".")[1]): tensor.shape[-1] for key, tensor in weights.items() if key.endswith(".filt")}
    down = next((side for number, side in filters.items() if number < blocks[0]), 0)
    up = next((side for number, side in filters.items() if number > blocks[0]), 0)
    halvings = (blocks[0] - 4) // (4 if down else 3)
    if halvings not in _HALVINGS:
        raise ValueError("no picture is as large as this network would need")
    ngf, channels = _shape(weights, "model.1.weight")[:2]
    # Where the two convolutions of a block stand: a layer of zeros is none, dropout moves the second one.
    first, second = sorted(
        {int(key.split(".")[3]) for key, t in weights.items() if ".conv_block." in key and t.dim() == 4}
    )[:2]
    facts: Facts = {
        "input_channels": channels,
        "ngf": ngf,
        "norm": _norm(weights, "model.2", "model.1"),
        "n_downsampling": halvings,
        "n_blocks": len(blocks),
        "padding": "zero" if first == 0 else "reflect",
        "dropout": 0.5 if second - first == (4 if first == 0 else 5) else 0.0,
        "antialias_down": down,
        "antialias_up": up,
    }
    return facts, max(_convolutions(weights, "model"))


def _blocks(weights: Weights, sequence: str) -> list[int]:
    pattern = re.compile(rf"{sequence}\.(\d+)\.conv_block\.")
    return sorted({int(found[1]) for key in weights if (found := pattern.match(key))})


def _convolutions(weights: Weights, sequence: str) -> list[int]:
    """Numbers of the convolutions of a sequence, without those in its blocks."""
    pattern = re.compile(rf"{sequence}\.(\d+)\.weight")
    return [int(found[1]) for key, t in weights.items() if t.dim() == 4 and (found := pattern.fullmatch(key))]


def _norm(weights: Weights, norm: str, convolution: str) -> NormName:
    """Which norm the network has, by the places of one and of a convolution before a norm."""
    if f"{norm}.running_mean" in weights:
        return "batch"
    if f"{norm}.weight" in weights:
        return "instance_affine"
    return "instance" if f"{convolution}.bias" in weights else "none"


def _architecture(facts: Facts, overrides: Mapping[str, Value]) -> Architecture:
    """The facts that the generator takes, with the overrides in their place.

    What a published layout does not have is left out where it has the default, so that a file and a training of ours
    give the same architecture.
    """
    name = str(overrides.get("name", facts.get("name")))
    try:
        kinds = argument_kinds(name)
    except UsageError as error:
        raise UsageError(f"--arch {name}: {error}") from None
    given = {key: value for key, value in overrides.items() if key not in ("name", "labels")}
    for key, value in given.items():
        if key not in kinds:
            raise UsageError(f"--arch {key}={value}: expected one of labels, {', '.join(kinds)} for {name}")
        if value == 0 and key in ("input_channels", "output_channels", "ngf"):
            raise UsageError(f"--arch {key}={value}: expected at least 1")
        try:
            decode(kinds[key], value, f"--arch {key}")
        except ModelError as error:
            raise UsageError(f"{error} for {name}") from None
    usual: Facts = {"antialias_down": 0, "antialias_up": 0, "padding": "reflect", "channels": ""}
    usual |= {"inner_norm": "instance", "separable_bias": True}
    if name.startswith("resnet_"):
        usual["n_downsampling"] = 2
    stated = facts | given
    arguments = {key: stated[key] for key in kinds if key in stated and usual.get(key) != stated[key]}
    return Architecture(name=name, arguments=arguments)


def _differences(expected: Weights, found: Weights) -> str:
    unknown = [key for key in found if key not in expected]
    # Files from before PyTorch 0.4.1 have no count; PyTorch fills it in.
    missing = [key for key in expected if key not in found and not key.endswith(".num_batches_tracked")]
    reshaped = [
        f"{key} is {_sides(found[key])} for {_sides(expected[key])}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    counts = (
        (unknown, "key is unknown", "keys are unknown"),
        (missing, "is missing", "are missing"),
        (reshaped, "has another shape", "have another shape"),
    )
    return ", ".join(
        f"{len(keys)} {one if len(keys) == 1 else several} ({_some(keys)})" for keys, one, several in counts if keys
    )


def _sides(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _some(keys: Iterable[str]) -> str:
    listed = list(keys)
    return ", ".join(listed[:2] + ["..."] * (len(listed) > 2))


def _model_type(architecture: Architecture) -> str:
    name, arguments = architecture.name, architecture.arguments
    if name in ("global", "local"):
        return "pix2pixhd"
    if name.startswith("unet_"):
        return "pix2pix"
    return "cut" if "antialias_down" in arguments or "antialias_up" in arguments else "cyclegan"


def _labels(name: str, channels: int, count: Value | None, where: str) -> LabelSpec | None:
    """What the input channels mean: one a class and the edges of objects, or colours.

    pix2pixHD takes label maps, by default with edges, and features of an encoder besides. The keys tell the sum of
    the channels only: without `count` that of the published models is taken, and no other one.
    """
    if count is None:
        if name not in ("global", "local") or channels <= _COLOURS:
            return None
        if channels == _CITYSCAPES + 1:
            return LabelSpec(count=_CITYSCAPES, instance_edges=True)
        raise ModelError(
            f"{where}: {channels} input channels: state the classes: --arch labels={channels} (no edges), "
            f"--arch labels={channels - 1} (and edges), --arch labels=0 (pictures), or {channels - 4} labels, edges "
            "and 3 encoder features, which are not supported"
        )
    if type(count) is not int or count > channels:
        raise UsageError(f"--arch labels={count}: expected a number of classes up to the {channels} input channels")
    if count == 0:
        return None
    edges = channels - count
    if edges > 1:
        raise ModelError(
            f"{where}: {channels} input channels are {count} labels and {edges} more, expected none or 1 (edges): the "
            "features of an encoder, which is in another file (latest_net_E.pth), are not supported; train without "
            "--instance_feat or --label_feat, or state another number of --arch labels"
        )
    return LabelSpec(count=count, instance_edges=edges == 1)


def _kind(architecture: Architecture) -> str:
    name = architecture.name
    if name in ("global", "local"):
        return f"a pix2pixHD {name} generator"
    if name.startswith("unet_"):
        return "a pix2pix U-Net"
    if name.startswith("mobile_"):
        return "a GAN-Compression ResNet"
    return "a CUT ResNet" if _model_type(architecture) == "cut" else "a CycleGAN ResNet"


def _notes(
    architecture: Architecture, channels: int, overrides: Mapping[str, Value], *, has_old_statistics: bool
) -> tuple[str, ...]:
    """What was taken without being told: keys and shapes are the same for what it is not."""
    notes = []
    if "labels" not in overrides and channels > _COLOURS:
        notes.append(
            f"{_CITYSCAPES} classes and instance edges assumed (--arch labels=N states them)"
            if architecture.name in ("global", "local")
            else f"pictures of {channels} channels assumed (--arch labels=N states classes)"
        )
    if "resnet_" in architecture.name and not {"padding"} & (overrides.keys() | architecture.arguments.keys()):
        notes.append("reflect padding assumed (--arch padding=replicate states another)")
    if has_old_statistics:
        notes.append(
            "running statistics of its instance norms dropped (batch norms without scale and shift have the same keys)"
        )
    return tuple(notes)


def _what_else(weights: Weights, where: str) -> str:
    """What a file without a generator's blocks or levels seems to be."""
    file = Path(where).name
    kernels = {key: tuple(tensor.shape[2:]) for key, tensor in weights.items() if tensor.dim() == 4}
    first = next((kernels[key] for key in ("model.0.weight", "net.0.weight") if key in kernels), None)
    if first in ((4, 4), (1, 1)) or any(re.match(r"(scale\d+_)?layer\d+\.\d+\.", key) for key in weights):
        return _another(file, "D", "a PatchGAN discriminator")
    if any(key.startswith("mlp_") for key in weights):
        return _another(file, "F", "CUT's feature network")
    if kernels.get("model.1.weight") == (7, 7) and "model.4.weight" in kernels:
        return _another(file, "E", "pix2pixHD's feature encoder")
    keys = ", ".join(f"{key} {_sides(tensor)}" for key, tensor in list(weights.items())[:2])
    return (
        "no generator that is known: expected a U-Net (pix2pix), a ResNet (CycleGAN, CUT, GAN-Compression) or a global "
        f"or local generator (pix2pixHD), found {keys}, ...; use the generator's file, or state it with --arch"
    )


def _another(file: str, letter: str, what: str) -> str:
    theirs = re.sub(rf"(net_?){letter}(?![a-z])", r"\1G", file)
    expected = theirs if theirs != file else "latest_net_G.pth"
    return f"this looks like {what} (latest_net_{letter}.pth); expected the generator's file, {expected}"
