"""One training step: precision, memory format, optimisers, gradients of several processes, moving averages."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from i2i_trainer.checkpoint import load_weights
from i2i_trainer.config import RunConfig
from i2i_trainer.distributed import World, unwrap
from i2i_trainer.ema import Ema
from i2i_trainer.models.base import Batch, Images, Losses, Model, Part


class Stepper:
    """Everything around a model's networks that changes their weights, for one stage of a training."""

    def __init__(self, model: Model[Any], run: RunConfig, device: torch.device, world: World) -> None:
        """Bring the networks to the device and build fresh optimisers for what is to learn."""
        self._model, self._run, self._device, self._world = model, run, device, world
        self.precision = _precision(run.precision, device)
        # Tensor cores want it; on a CPU instance norm made a training step a third slower with it.
        wants_channels_last = device.type == "cuda" if run.channels_last is None else run.channels_last
        self._format = torch.channels_last if wants_channels_last else torch.contiguous_format
        self._parts: dict[Part, nn.ModuleDict] = {
            "generator": model.generators,
            "discriminator": model.discriminators,
        }
        for networks in self._parts.values():
            networks.to(device, memory_format=self._format)  # type: ignore[call-overload]
        self._averages = {name: Ema(network, run.ema) for name, network in model.generators.items()} if run.ema else {}
        self._optimizers = {
            # One kernel for all weights: with batch 1 on a CPU the plain update costs as much as the networks.
            part: torch.optim.Adam(
                [weight for weight in self._parts[part].parameters() if weight.requires_grad],
                lr=run.lr, betas=(run.beta1, run.beta2), fused=True,
            )
            for part in model.step_order
        }  # fmt: skip
        # FP16 gradients leave its range: each optimiser scales its own losses. BF16 and FP32 need none.
        scaled = self.precision == torch.float16
        self._scalers = {part: torch.amp.GradScaler(device.type, enabled=scaled) for part in self._optimizers}
        for networks in self._parts.values():
            for name, network in networks.items():
                if run.compile:
                    network.compile()
                networks[name] = world.wrap(network, device)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True

    def release(self) -> None:
        """Take the wrappers off the model's networks again."""
        for networks in self._parts.values():
            for name, network in networks.items():
                networks[name] = unwrap(network)

    def to_device(self, images: Tensor) -> Tensor:
        """Images (or ids) where and how the networks want them."""
        dtype = torch.get_default_dtype() if images.is_floating_point() else None
        return images.to(self._device, dtype, non_blocking=True, memory_format=self._format)

    def step(self, batches: list[Batch], *, rate: float, number: int) -> Losses:
        """One update of the discriminators and one of the generators, in the model type's order.

        The images of a batch are made once where memory allows: with several batches a step, and the discriminator
        first, keeping all their graphs for the generator would undo what small batches save.

        Args:
            batches: whose gradients make one step.
            rate: learning rate.
            number: of the step, in this stage.

        Returns:
            The mean of each loss over the batches, on the device.
        """
        model = self._model
        losses: Losses = {}
        kept: list[Images | None] = [None] * len(batches)
        generator_is_first = model.step_order[0] == "generator"
        for part in model.step_order:
            is_generator = part == "generator"
            # The generator's loss runs through the discriminators; their weights need no gradient then.
            self._parts["discriminator"].requires_grad_(not is_generator)
            self._optimizers[part].zero_grad(set_to_none=True)
            for i, batch in enumerate(batches):
                with self._exchanging(part, is_last=i == len(batches) - 1), self._autocast():
                    images = kept[i]
                    if images is None:
                        needs_graph = is_generator or len(batches) == 1
                        with torch.set_grad_enabled(needs_graph):
                            images = model.translate(batch)
                        if generator_is_first:
                            kept[i] = {name: image.detach() for name, image in images.items()}
                        elif needs_graph:
                            kept[i] = images
                    its = (model.generator_loss if is_generator else model.discriminator_loss)(batch, images)
                weight = (1.0 if is_generator else model.discriminator_weight) / len(batches)
                total = torch.stack(list(its.values())).sum() * weight
                with self._exchanging(part, is_last=i == len(batches) - 1):
                    self._scalers[part].scale(total).backward()  # type: ignore[no-untyped-call]
                for name, loss in its.items():
                    losses[name] = losses.get(name, 0) + loss.detach() / len(batches)
            self._update(part, rate)
        for name, average in self._averages.items():
            average.update(unwrap(model.generators[name]), number)
        return losses

    def _update(self, part: Part, rate: float) -> None:
        optimizer, scaler = self._optimizers[part], self._scalers[part]
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self._run.clip_grad:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self._parts[part].parameters(), self._run.clip_grad)
        scaler.step(optimizer)
        scaler.update()

    def _exchanging(self, part: Part, *, is_last: bool) -> ExitStack:
        """Processes exchange the gradients of a step once, with its last batch."""
        stack = ExitStack()
        for network in self._parts[part].values() if not is_last else ():
            if isinstance(network, DistributedDataParallel):
                stack.enter_context(network.no_sync())
        return stack

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self.precision, enabled=self.precision != torch.float32)

    def networks(self) -> dict[str, nn.Module]:
        """Every network under its name in a checkpoint."""
        return {name: unwrap(network) for networks in self._parts.values() for name, network in networks.items()}

    def used_generators(self) -> nn.ModuleDict:
        """All generators with the weights to use: the moving averages, where there are any."""
        own = self._model.generators
        return nn.ModuleDict(
            {name: self._averages[name].network if self._averages else unwrap(own[name]) for name in own}
        )

    def state_dict(self) -> dict[str, Any]:
        """What `networks for use` do not hold: raw weights of averaged generators, optimisers, scalers."""
        networks = self.networks()
        return {
            "generators": {name: networks[name].state_dict() for name in self._averages},
            "optimizers": {part: optimizer.state_dict() for part, optimizer in self._optimizers.items()},
            "scalers": {part: scaler.state_dict() for part, scaler in self._scalers.items()},
        }

    def load_state_dict(self, state: dict[str, Any], weights: dict[str, dict[str, Tensor]], where: str) -> None:
        """Take up the state of `state_dict` and the weights for use that were saved beside it.

        Raises:
            ModelError: the weights do not fit; names the network, with `where` before it.
            KeyError, TypeError, ValueError: the state is not whole.
        """
        for name, network in self.networks().items():
            load_weights(network, state["generators"].get(name) or weights.get(name, {}), f"{where}: network {name}")
        for name, average in self._averages.items():
            load_weights(average.network, weights.get(name, {}), f"{where}: network {name}")
        for part, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][part])
            if state["scalers"][part]:  # empty where the precision was one that needs none
                self._scalers[part].load_state_dict(state["scalers"][part])


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
