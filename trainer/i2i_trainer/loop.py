"""The training loop: owns devices, optimisers, schedule, evaluation and saving. Model types own losses and networks."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from i2i_runtime import __version__
from i2i_runtime.card import Card, ImageSpec, MadeWith, TrainingRecord
from i2i_runtime.command import StopRequest, graceful_stop
from i2i_runtime.errors import DeviceError, DivergedError, ModelError, SinkError, SourceError, UsageError
from i2i_trainer.checkpoint import Checkpoint, load_weights, save_checkpoint
from i2i_trainer.config import ModelConfig, RunConfig, to_toml
from i2i_trainer.data.batches import Order, batches, steps_per_epoch
from i2i_trainer.data.paired import PairedDataset, check_pairs, find_pairs
from i2i_trainer.data.transforms import Preprocess, load_size_for, to_image
from i2i_trainer.models import build_model
from i2i_trainer.models.base import Batch, Model, Part
from i2i_trainer.networks.inference import default_statistics, for_inference
from i2i_trainer.record import Recorder

_SAMPLES = 4
"""Rows of a sample grid, and pictures that travel in a checkpoint."""
_EVALUATED = 64
"""Pictures of val/ or test/ that an evaluation looks at, evenly spaced over all of them."""


def train(model_type: str, run: RunConfig, config: ModelConfig, *, resume: Checkpoint | None) -> None:
    """Train until the last step, the time limit or a signal; see `RunConfig` for what is left in `run.out`.

    Args:
        model_type: one of `model_names()`.
        run: settings of the run.
        config: settings of the model type.
        resume: the checkpoint to go on from; None starts a new training.

    Raises:
        SourceError: the training pictures are not usable.
        SinkError: the run's folder is not usable.
        DivergedError: a loss is no longer finite; the last checkpoint is from before.
        Interrupted: a signal; the checkpoint holds every step that was done.
    """
    try:
        training = Training(model_type, run, config)
        if resume is not None:
            training.restore(resume)
        with graceful_stop() as stop:
            training.fit(stop)
    except (RuntimeError, cv2.error) as error:
        # Each allocator has an error of its own.
        if re.search(r"out of memory|can't allocate|not enough memory|insufficient memory", str(error).lower()):
            raise DeviceError("out of memory; use a smaller --size, --batch or --ngf") from error
        raise
    else:
        stop.raise_if_set(f"stopped at step {training.step}; go on with --resume --out {training.folder}")


class Training:
    """One run: the state that a checkpoint saves, and the steps that change it."""

    def __init__(self, model_type: str, run: RunConfig, config: ModelConfig) -> None:
        """Find the pictures and build networks and optimisers."""
        self.folder = Path(run.out)
        self._model_type, self._run, self._config = model_type, run, config
        self._device = pick_device(run.device)
        root = Path(run.data)
        preprocess = Preprocess(size=run.size, load_size=run.load_size or load_size_for(run.size), flip=run.flip)
        pairs = check_pairs(root, find_pairs(root, ("train", "")), skip_unreadable=run.skip_unreadable)
        self._train_set = PairedDataset(pairs, preprocess, run.direction, run.seed)
        held_out = find_pairs(root, ("val", "test"))
        held_out = check_pairs(root, held_out, skip_unreadable=run.skip_unreadable) if held_out else []
        self._eval_set = PairedDataset(_evenly(held_out, _EVALUATED), preprocess, run.direction, run.seed)

        self._epoch_steps = steps_per_epoch(len(pairs), run.batch)
        self._constant_steps, self._decay_steps = schedule_steps(run, self._epoch_steps)
        self._last_step = self._constant_steps + self._decay_steps
        torch.manual_seed(run.seed)
        self._model: Model[Any] = build_model(model_type, config, run.size)
        self._parts: dict[Part, nn.ModuleDict] = {
            "generator": self._model.generators.to(self._device),
            "discriminator": self._model.discriminators.to(self._device),
        }
        self._optimizers = {
            # One kernel for all weights: with batch 1 on a CPU the plain update costs as much as the networks.
            part: torch.optim.Adam(networks.parameters(), lr=run.lr, betas=(run.beta1, run.beta2), fused=True)
            for part, networks in self._parts.items()
        }
        self.step = 0
        self._best: float | None = None
        self._failed_saves = 0
        # Samples and the exporter's proof use pictures the generator has not been fitted to, where there are any.
        sample_set = self._eval_set if held_out else self._train_set
        self._samples = [sample_set.fixed(index) for index in _evenly(range(len(sample_set.pairs)), _SAMPLES)]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up all state where `checkpoint` was saved.

        Raises:
            ModelError: its weights are not those of this model.
            UsageError: it was saved for use only.
        """
        state = checkpoint.training_state
        if state is None:
            raise UsageError(f"{self.folder}: this checkpoint holds no training state; resume from last.pt")
        for name, network in self._model.networks().items():
            load_weights(network, checkpoint.networks.get(name, {}), f"{self.folder}: network {name}")
        try:
            for part, optimizer in self._optimizers.items():
                optimizer.load_state_dict(state["optimizers"][part])
            self.step, self._best = state["step"], state["best"]
            torch.set_rng_state(state["rng"]["cpu"])
            if self._device.type == "cuda" and state["rng"]["cuda"]:
                torch.cuda.set_rng_state(state["rng"]["cuda"][0], self._device)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{self.folder}: the training state in last.pt is not whole ({error!r})") from error

    def fit(self, stop: StopRequest) -> None:
        """Do the steps that are left."""
        run = self._run
        with Recorder(self.folder, self.step, self._last_step) as recorder:
            self._introduce(recorder)
            if self.step >= self._last_step:
                recorder.say(f"step {self.step} of {self._last_step} is done already; to go on, give more --steps")
                return
            if self.step == 0:
                self._save("last.pt", recorder, must=True)
            order = Order(len(self._train_set.pairs), run.batch, run.seed, self.step, self._last_step)
            began = logged_at = time.monotonic()
            images_since, images_per_s = 0, 0.0
            try:
                for batch in batches(self._train_set, order, self._workers(), self._device):
                    losses = self._train_step(batch)
                    self.step += 1
                    images_since += len(batch.input)
                    is_last = self.step == self._last_step or _is_over(run.max_minutes, began)
                    if self.step % run.log_every == 0 or is_last:
                        now = time.monotonic()
                        images_per_s = images_since / max(now - logged_at, 1e-9)
                        logged_at, images_since = now, 0
                        self._log(recorder, losses, images_per_s)
                    recorder.progress(self.step, losses, images_per_s)
                    if self.step % run.sample_every == 0 or is_last:
                        self._sample(recorder)
                    if self._eval_set.pairs and (self.step % run.eval_every == 0 or is_last):
                        self._evaluate(recorder)
                    if self.step % run.save_every == 0 and not is_last:
                        self._save("last.pt", recorder)
                    if is_last or stop:
                        break
            except SourceError:
                # A picture that cannot be read any more: the steps until now are good.
                self._save("last.pt", recorder, must=True)
                raise
            self._save("last.pt", recorder, must=True)
            recorder.say(f"step {self.step}: {self.folder / 'last.pt'}")

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the discriminators and one of the generators, in the model type's order."""
        rate = self._run.lr * lr_factor(self.step, self._constant_steps, self._decay_steps)
        losses: dict[str, Tensor] = {}
        images = self._model.translate(batch)
        for part in self._model.step_order:
            is_generator = part == "generator"
            # The generator's loss runs through the discriminators; their weights need no gradient then.
            self._parts["discriminator"].requires_grad_(not is_generator)
            its_losses = (self._model.generator_loss if is_generator else self._model.discriminator_loss)(batch, images)
            total = torch.stack(list(its_losses.values())).sum()
            optimizer = self._optimizers[part]
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            (total if is_generator else total * self._model.discriminator_weight).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses |= its_losses
        values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"step {self.step + 1}: loss {name} is {value}; the last checkpoint is from before: "
                    "resume it with a lower --lr"
                )
        return values

    def _log(self, recorder: Recorder, losses: dict[str, float], images_per_s: float) -> None:
        rate = self._run.lr * lr_factor(self.step - 1, self._constant_steps, self._decay_steps)
        values = {"epoch": self.step / self._epoch_steps, "lr": rate, **losses, "images_per_s": images_per_s}
        recorder.log(self.step, values)

    def _inference_generator(self) -> nn.Module:
        generator, *_ = self._model.generator()
        return for_inference(generator, default_statistics(self._run.batch))

    @torch.no_grad()
    def _sample(self, recorder: Recorder) -> None:
        generator = self._inference_generator()
        rows = [
            [to_image(image) for image in (source, generator(source[None].to(self._device))[0], target)]
            for source, target in self._samples
        ]
        recorder.sample(self.step, rows, ("input", "output", "target"))

    @torch.no_grad()
    def _evaluate(self, recorder: Recorder) -> None:
        """Mean absolute error on held-out pictures, in units of [-1, 1]; the best so far becomes best.pt."""
        generator = self._inference_generator()
        errors = []
        for index in range(len(self._eval_set.pairs)):
            source, target = self._eval_set.fixed(index)
            output = generator(source[None].to(self._device))[0].cpu()
            errors.append((output - target).abs().mean().item())
        error = sum(errors) / len(errors)
        recorder.log(self.step, {"val_L1": error, "pictures": len(errors)})
        recorder.say(f"step {self.step}: val_L1 {error:.4f}")
        if (self._best is None or error < self._best) and self._save("best.pt", recorder):
            self._best = error

    def _save(self, name: str, recorder: Recorder, *, must: bool = False) -> bool:
        """Whether the checkpoint was written; with `must`, or at the second failure in a row, failing is an error."""
        checkpoint = self._checkpoint(with_state=name == "last.pt")
        for network, weights in checkpoint.networks.items():
            if not all(torch.isfinite(weight).all() for weight in weights.values()):
                raise DivergedError(
                    f"step {self.step}: weights of network {network} are no longer finite; the last checkpoint is "
                    "from before: resume it with a lower --lr"
                )
        try:
            save_checkpoint(self.folder / name, checkpoint)
        except SinkError as error:
            # A disk may be full for a moment; twice in a row it is not going to get better by itself.
            self._failed_saves += 1
            if must or self._failed_saves == 2:
                raise
            recorder.say(f"warning: {error}")
            return False
        self._failed_saves = 0
        return True

    def _checkpoint(self, *, with_state: bool) -> Checkpoint:
        state = {
            "step": self.step,
            "best": self._best,
            "optimizers": {part: optimizer.state_dict() for part, optimizer in self._optimizers.items()},
            "rng": {
                "cpu": torch.get_rng_state(),
                "cuda": [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else [],
            },
        }
        pictures = [to_image(source) for source, _ in self._samples]
        settings = {
            "model_type": self._model_type,
            "run": dataclasses.asdict(self._run),
            "model": dataclasses.asdict(self._config),
        }
        return Checkpoint(
            card=self._card(),
            config=json.dumps(settings),
            networks={name: network.state_dict() for name, network in self._model.networks().items()},
            pictures=torch.stack([torch.from_numpy(picture) for picture in pictures]),
            training_state=state if with_state else None,
        )

    def _card(self) -> Card:
        _, architecture, size_rule = self._model.generator()
        run = self._run
        return Card(
            name=self.folder.resolve().name,
            model_type=self._model_type,
            direction=run.direction,
            generator=architecture,
            input=ImageSpec(),
            output=ImageSpec(),
            size=size_rule,
            training=TrainingRecord(
                data=Path(run.data).resolve().name,
                size=run.size,
                batch=run.batch,
                steps=self.step,
                epochs=self.step / self._epoch_steps,
                seed=run.seed,
            ),
            made_with=MadeWith(versions={"i2i": __version__, "torch": torch.__version__}),
        )

    def _introduce(self, recorder: Recorder) -> None:
        # What this run is, ready for --config.
        recorder.write("config.toml", to_toml(self._run, self._config))
        generator, architecture, _ = self._model.generator()
        count = sum(p.numel() for p in generator.parameters()) / 1e6
        held_out = f"{len(self._eval_set.pairs)} held out" if self._eval_set.pairs else "no val/ or test/: no best.pt"
        recorder.say(
            f"{self._model_type} {architecture.name} ({count:.1f} M parameters) on {self._device}: "
            f"{len(self._train_set.pairs)} pairs, {held_out}; steps {self.step} to {self._last_step}"
        )

    def _workers(self) -> int:
        if self._run.workers is not None:
            return self._run.workers
        # On a CPU the networks need every core; a GPU waits for pictures otherwise.
        return 0 if self._device.type == "cpu" else 4


def schedule_steps(run: RunConfig, epoch_steps: int) -> tuple[int, int]:
    """Steps at the full learning rate, and steps over which it falls to zero."""
    if run.steps is not None:
        return run.steps - run.steps // 2, run.steps // 2
    return run.epochs * epoch_steps, run.epochs_decay * epoch_steps


def lr_factor(step: int, constant_steps: int, decay_steps: int) -> float:
    """Share of the learning rate at a step: 1, then falling linearly to 0 (CycleGAN section 4).

    >>> [lr_factor(step, 2, 4) for step in range(6)]
    [1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < constant_steps:
        return 1.0
    return 1.0 - (step - constant_steps) / decay_steps


def pick_device(name: str) -> torch.device:
    """The device to train on; `auto` is CUDA, then Apple's MPS, then the CPU.

    Raises:
        DeviceError: it is not there.
        UsageError: no such kind of device.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if has[kind]))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:1 or mps") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not has.get(device.type, False) or (device.index or 0) >= count:
        found = ", ".join(kind for kind, present in has.items() if present)
        raise DeviceError(f"--device {name}: not available here; found {found}")
    return device


def _evenly(pairs: Sequence[Any], count: int) -> list[Any]:
    count = min(count, len(pairs))
    return [pairs[i * len(pairs) // count] for i in range(count)]


def _is_over(minutes: float | None, began: float) -> bool:
    return minutes is not None and time.monotonic() - began >= minutes * 60
