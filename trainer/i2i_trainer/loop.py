"""The training loop: owns devices, optimisers, schedule, evaluation and saving. Model types own losses and networks."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from i2i_runtime.card import LabelSpec
from i2i_runtime.command import StopRequest, graceful_stop
from i2i_runtime.errors import DeviceError, DivergedError, ModelError, SinkError, SourceError, UsageError
from i2i_trainer.cards import Lost, cards_of
from i2i_trainer.checkpoint import Checkpoint, save_checkpoint
from i2i_trainer.config import ModelConfig, RunConfig, Size, to_toml
from i2i_trainer.data.batches import Order, samples, stack, steps_per_epoch
from i2i_trainer.data.dataset import Data, Dataset, open_data
from i2i_trainer.data.transforms import Preprocess, Sample, load_size_for, to_image
from i2i_trainer.distributed import World, join_world, local_device
from i2i_trainer.evaluation import (
    TO_TEACHER,
    Directions,
    Translate,
    evaluate,
    imitated,
    inputs_of,
    metric_names,
    translate_with,
)
from i2i_trainer.metrics import FeatureNetwork, is_better
from i2i_trainer.models import build_model, model_type
from i2i_trainer.models.base import Batch, Model, Stage, Task
from i2i_trainer.networks.inference import as_used, default_statistics
from i2i_trainer.networks.labels import LabelEncoding
from i2i_trainer.record import Recorder
from i2i_trainer.schedule import Schedule
from i2i_trainer.stepper import Stepper

_SAMPLES = 4
"""Rows of a sample grid, and inputs that travel in a checkpoint."""
_STYLE_PICTURES = 64
"""Training pictures from which styles are learnt."""
_START_PICTURES = 16
"""Training pictures that a model may look at before its first step."""
_LOSSES_HELD = 50
"""Steps whose losses may stay on a GPU before they are looked at: each look makes it wait."""


def train(name: str, run: RunConfig, config: ModelConfig, *, resume: Checkpoint | None) -> None:
    """Train until the last step, the time limit or a signal; see `RunConfig` for what is left in `run.out`.

    Args:
        name: one of `model_names()`.
        run: settings of the run.
        config: settings of the model type.
        resume: the checkpoint to go on from; None starts a new training.

    Raises:
        SourceError: the training pictures are not usable.
        SinkError: the run's folder is not usable.
        DivergedError: a loss is no longer finite; the last checkpoint is from before.
        DeviceError: out of memory, or another process of this training is gone.
        Interrupted: a signal; the checkpoint holds every step that was done.
    """
    device = local_device(pick_device(run.device))
    try:
        with join_world(device) as world:
            training = Training(name, run, config, world, device)
            if resume is None:
                training.start()
            else:
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

    def __init__(
        self,
        name: str,
        run: RunConfig,
        config: ModelConfig,
        world: World | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Find the pictures and build networks and optimisers of the first stage."""
        self.folder = Path(run.out)
        self._name, self._run, self._config = name, run, config
        self._world = world or World()
        self._device = device or pick_device(run.device)
        if run.label_nc and model_type(name).data == "unpaired":
            raise UsageError(f"--label-nc: {name} translates pictures; for label maps use pix2pixhd or pix2pix")
        self._labels = LabelSpec(count=run.label_nc, instance_edges=run.instances) if run.label_nc else None
        self._encoding = LabelEncoding(run.label_nc, run.instances).to(self._device) if run.label_nc else None
        self._features = FeatureNetwork(Path(run.features)).to(self._device) if run.features else None

        torch.manual_seed(run.seed)
        task = Task(
            size=run.size,
            input_channels=self._encoding.channels if self._encoding else run.input_channels,
            output_channels=run.output_channels,
            has_labels=self._encoding is not None,
            direction=run.direction,
        )
        self._model: Model[Any] = build_model(name, config, task)
        self._load_size = run.load_size or (load_size_for(run.size) if self._model.random_crop else run.size)
        self._all_data = open_data(run, self._model.data, self._preprocess(1))
        self._epoch_steps = steps_per_epoch(len(self._all_data.train), run.batch * run.accumulate * self._world.size)
        self._schedule = Schedule.of(run, self._epoch_steps)
        both_ways = len(self._model.translators) > 1
        available = metric_names(self._model.data, both_ways=both_ways, has_features=self._features is not None)
        if self._model.teacher is not None:
            self._model.teacher.generator.to(self._device)
            of_pairs = metric_names("paired", both_ways=False, has_features=False)
            available = [f"{metric}{TO_TEACHER}" for metric in of_pairs] + available
        held_out = self._all_data.held_out
        if held_out is not None and min(run.eval_pictures, held_out.fewest) < 2:
            available = [metric for metric in available if metric not in ("FID", "KID")]  # of two pictures or more
        self._best_by = _best_by(run, name, available)
        self._stages = self._model.stages()
        self._stage_steps = self._schedule.split([stage.share for stage in self._stages])
        self.step = 0
        self._failed_saves = 0
        self._pending: list[tuple[int, list[str], Tensor]] = []
        self._losses: dict[str, float] = {}
        self._styles_of_step = -1
        self._best: float | None = None
        self._pictures_before: int | None = None
        self._lost: Lost | None = None
        self._teachers_own: dict[str, float] | None = None

    def start(self) -> None:
        """Begin a new training."""
        self._model.start(self._first_batches())
        self._enter(self._stages[0])
        # From here on dropout and image pools of the processes go ways of their own.
        torch.manual_seed(self._run.seed + self._world.rank)

    def _first_batches(self) -> Iterator[Batch]:
        """A few training images, one at a time."""
        for sample in self._all_data.train.evenly(_START_PICTURES):
            if {"input", "target"} <= sample.keys():
                dtype = torch.get_default_dtype()
                yield self._encoded({
                    name: images.to(self._device, dtype if images.is_floating_point() else None)
                    for name, images in stack([sample]).items()
                })  # fmt: skip

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up all state where `checkpoint` was saved.

        Raises:
            ModelError: its weights are not those of this model.
            UsageError: it was saved for use only.
        """
        state = checkpoint.training_state
        if state is None:
            raise UsageError(f"{self.folder}: this checkpoint holds no training state; resume from last.pt")
        try:
            self._enter(self._stages[state["stage"]])
            self._stepper.load_state_dict(state, checkpoint.networks, str(self.folder))
            self._stage_began = state["stage_began"]
            self.step, self._best, self._pictures_before = state["step"], state["best"], state["pictures"]
            ranks = state["ranks"]
            # With more processes than before, the new ones begin with what the first ones had.
            mine = ranks[self._world.rank % len(ranks)]
            for name, pool in self._model.pools.items():
                pool.load_state_dict(mine["pools"][name], self._device)
            torch.set_rng_state(mine["cpu"])
            if self._device.type == "cuda" and mine["cuda"]:
                torch.cuda.set_rng_state(mine["cuda"][0], self._device)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{self.folder}: the training state in last.pt is not whole ({error!r})") from error

    def _enter(self, stage: Stage) -> None:
        """Bring everything into the form of a stage; optimisers, averages and the best figure begin anew."""
        self._model.begin(stage)
        self._stepper = Stepper(self._model, self._run, self._device, self._world)
        self._stage, self._stage_began = stage, self.step
        preprocess = self._preprocess(stage.scale)
        held_out = self._all_data.held_out
        self._data = Data(
            train=self._all_data.train.at(preprocess), held_out=held_out.at(preprocess) if held_out else None
        )
        self._best = self._teachers_own = None
        # Samples and the exporter's proof use pictures the generator has not been fitted to, where there are any.
        whole = (self._data.held_out or self._data.train).evenly(_SAMPLES)
        self._samples = [sample for sample in whole if {"input", "target"} <= sample.keys()]

    def _preprocess(self, scale: int) -> Preprocess:
        sizes: list[Size] = [(height // scale, width // scale) for height, width in (self._run.size, self._load_size)]
        return Preprocess(size=sizes[0], load_size=sizes[1], flip=self._run.flip)

    def fit(self, stop: StopRequest) -> None:
        """Do the steps that are left."""
        run, last_step = self._run, self._schedule.last_step
        recorder = Recorder(
            self.folder, self.step, last_step, tensorboard=run.tensorboard, silent=not self._world.is_first
        )
        with recorder:
            self._agree()
            self._introduce(recorder)
            if self.step >= last_step:
                recorder.say(
                    f"step {self.step} of {last_step} is done already; to go on, give more --steps or --epochs"
                )
                return
            if self.step == 0:
                self._save("last.pt", recorder, must=True)
            began = logged_at = time.monotonic()
            images_since, images_per_s = 0, 0.0
            try:
                for batches in self._batches():
                    self._train_step(batches)
                    images_since += sum(len(batch.input) for batch in batches) * self._world.size
                    # Who asks to stop may not wait for long: the step that was done is saved, and nothing else.
                    is_stopped = self._world.any(bool(stop))
                    is_over = self.step == last_step or self._world.any(_is_over(run.max_minutes, began))
                    if self._device.type == "cpu" or is_stopped or is_over or self._is_something_due():
                        self._look_at_losses()
                    if self._is_due(run.log_every) or is_stopped or is_over:
                        now = time.monotonic()
                        images_per_s = images_since / max(now - logged_at, 1e-9)
                        logged_at, images_since = now, 0
                        self._log(recorder, images_per_s)
                    recorder.progress(self.step, self._losses, images_per_s)
                    if is_stopped:
                        break
                    if self._is_due(run.sample_every) or is_over:
                        self._sample(recorder)
                    if self._is_due(run.eval_every) or is_over:
                        self._evaluate(recorder)
                    if is_over:
                        break
                    if self._is_due(run.save_every):
                        self._save("last.pt", recorder)
            except SourceError:
                # A picture that cannot be read any more: the steps until now are good.
                if self._world.size == 1:  # the other processes know nothing of it
                    self._save("last.pt", recorder, must=True)
                raise
            self._save("last.pt", recorder, must=True)
            recorder.say(f"step {self.step}: {self.folder / 'last.pt'}")

    def _agree(self) -> None:
        """Processes that do not do the same steps would wait for each other for ever.

        Raises:
            UsageError: they see different checkpoints, pictures or settings.
        """
        mine = {
            "step": self.step,
            "stage": self._stage.name,
            "training pictures": len(self._data.train),
            "last step": self._schedule.last_step,
        }
        for what, values in self._world.compare(mine).items():
            raise UsageError(
                f"the processes of this training differ in {what}: {', '.join(map(str, values))}; do all of them "
                "see the same --data and --out, on a disk that they share?"
            )

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0

    def _is_something_due(self) -> bool:
        run = self._run
        return any(map(self._is_due, (run.log_every, run.sample_every, run.eval_every, run.save_every, _LOSSES_HELD)))

    def _batches(self) -> Iterator[list[Batch]]:
        """What each step from here on sees, stage after stage."""
        run, world = self._run, self._world
        while self.step < self._schedule.last_step:
            now = next(i for i, steps in enumerate(self._stage_steps) if self.step in steps)
            # A training that was made longer does not go back to a stage that it has left.
            stage = self._stages[max(now, self._stages.index(self._stage))]
            if stage != self._stage:
                self._look_at_losses()
                self._stepper.release()
                self._enter(stage)
            steps = range(self.step, self._stage_steps[now].stop)
            order = Order(
                len(self._data.train), run.batch * run.accumulate, run.seed, steps, rank=world.rank,
                world_size=world.size,
            )  # fmt: skip
            for sample in samples(self._data.train, order, self._workers(), pin_memory=self._device.type == "cuda"):
                yield [self._batch(part) for part in _split(sample, run.batch)]

    def _batch(self, sample: Sample) -> Batch:
        batch = self._encoded({name: self._stepper.to_device(tensor) for name, tensor in sample.items()})
        return dataclasses.replace(batch, input=self._stepper.to_device(batch.input))

    def _encoded(self, sample: Sample) -> Batch:
        given, instances, n_labels = sample["input"], None, 0
        if self._encoding is not None:
            instances = sample.get("instances", given)
            given, n_labels = self._encoding(given, instances), self._run.label_nc
        return Batch(input=given, target=sample["target"], instances=instances, n_labels=n_labels)

    def _train_step(self, batches: list[Batch]) -> None:
        rate = self._run.lr * self._schedule.lr_factor(self.step)
        losses = self._stepper.step(batches, rate=rate, number=self.step - self._stage_began)
        self.step += 1
        self._pending.append((self.step, list(losses), torch.stack(list(losses.values()))))

    def _look_at_losses(self) -> None:
        """Bring the losses of the last steps from the device, and end if one of them is no number.

        Raises:
            DivergedError: names the loss and the step.
        """
        if not self._pending:
            return
        # A stage has the same losses in every step: all of them come in one transfer.
        table = self._world.mean(torch.stack([values for *_, values in self._pending]).float())
        for (step, names, _), row in zip(self._pending, table.tolist(), strict=True):
            for name, value in zip(names, row, strict=True):
                if not math.isfinite(value):
                    raise DivergedError(
                        f"step {step}: loss {name} is {value}; the last checkpoint is from before: "
                        "resume it with a lower --lr"
                    )
                self._losses[name] = value
        self._pending.clear()

    def _log(self, recorder: Recorder, images_per_s: float) -> None:
        rate = self._run.lr * self._schedule.lr_factor(self.step - 1)
        values: dict[str, Any] = {
            "epoch": self.step / self._epoch_steps,
            "lr": rate,
            **self._losses,
            "images_per_s": images_per_s,
        }
        if self._stage.name:
            values = {"stage": self._stage.name, **values}
        recorder.log(self.step, values)

    def _learn_styles(self) -> None:
        """Styles follow from weights and pictures: they are learnt when something is about to use them."""
        if self._styles_of_step == self.step:
            return
        pictures = (self._batch(stack([sample])) for sample in self._data.train.evenly(_STYLE_PICTURES))
        self._model.learn_styles(pictures, self._stepper.used_generators())
        self._styles_of_step = self.step

    def _translators(self) -> list[nn.Module]:
        """The generators as they are used, in the order of the model's `translators`."""
        self._learn_styles()
        generators, statistics = self._stepper.used_generators(), default_statistics(self._run.batch)
        codes = self._model.style_codes
        return [
            as_used(generators[name], statistics, self._labels, codes).to(self._device)
            for name in self._model.translators
        ]

    @torch.no_grad()
    def _sample(self, recorder: Recorder) -> None:
        if not self._world.is_first:
            return
        there, *back = self._translators()
        rows = []
        for sample in self._samples:
            batch = stack([sample])
            given = inputs_of(batch, self._device)
            shown = [batch["input"], there(*given), batch["target"]]
            if self._model.teacher is not None:
                truth = [batch["target"]] if self._model.data == "paired" else []
                shown = [batch["input"], self._model.teacher.generator(*given), shown[1], *truth]
            if back:
                fake = back[0](*inputs_of({"input": batch["target"]}, self._device))
                shown = [*shown[:2], back[0](shown[1]), batch["target"], fake, there(fake)]
            rows.append([to_image(images[0]) for images in shown])
        titles = ["input", "output", "target"]
        if self._model.teacher is not None:
            titles = ["input", "teacher", "student", "target"][: len(rows[0])]
        if back:
            one, other = self._run.direction[0], self._run.direction[-1]
            titles = [f"{what} {of}" for pair in ((one, other), (other, one)) for what, of in _there_and_back(*pair)]
        recorder.sample(self.step, rows, titles)

    def _evaluate(self, recorder: Recorder) -> None:
        """Measure on held-out pictures; the best so far becomes best.pt."""
        if self._data.held_out is None or self._best_by is None or not self._world.is_first:
            return
        translates = [translate_with(generator, self._device) for generator in self._translators()]
        directions = Directions(there=translates[0], back=translates[1] if len(translates) > 1 else None)
        samples = self._data.held_out.evenly(self._run.eval_pictures)
        figures, count = evaluate(directions, self._model.data, samples, self._features)
        if self._model.teacher is not None:
            figures = self._against_teacher(directions.there, self._data.held_out, figures, count) | figures
        recorder.log(self.step, {**{f"val_{name}": value for name, value in figures.items()}, "pictures": count})
        recorder.say(f"step {self.step}: " + "  ".join(f"val_{name} {value:.4f}" for name, value in figures.items()))
        value = figures.get(self._best_by, math.nan)
        is_best = self._best is None or is_better(self._best_by, value, self._best)
        if math.isfinite(value) and is_best and self._save("best.pt", recorder):
            self._best = value

    def _against_teacher(
        self, student: Translate, held_out: Dataset, own: dict[str, float], count: int
    ) -> dict[str, float]:
        """How near the student is to its teacher; with its `own` figures it becomes what its card tells."""
        assert self._model.teacher is not None
        teacher = translate_with(self._model.teacher.generator, self._device)
        pictures = held_out.evenly(self._run.eval_pictures)
        found, _ = evaluate(Directions(there=student), "paired", imitated(teacher, pictures))
        if self._teachers_own is None:
            # They stay the same as long as the pictures keep their size; without targets there are none.
            samples = held_out.evenly(self._run.eval_pictures) if self._model.data == "paired" else ()
            self._teachers_own, _ = evaluate(Directions(there=teacher), self._model.data, samples)
        self._lost = Lost(step=self.step, pictures=count, to_teacher=found, own=own, teachers_own=self._teachers_own)
        return {f"{name}{TO_TEACHER}": value for name, value in found.items()}

    def _save(self, name: str, recorder: Recorder, *, must: bool = False) -> bool:
        """Whether the checkpoint was written; with `must`, or at the second failure in a row, failing is an error."""
        state = self._state() if name == "last.pt" else None
        if not self._world.is_first:
            return True
        try:
            self._learn_styles()
        except SourceError as error:
            # What was learnt is worth more than the newest styles.
            recorder.say(f"warning: the styles are those of an earlier step ({error})")
        checkpoint = self._checkpoint(state)
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

    def _state(self) -> dict[str, Any]:
        """What only a training that goes on needs; all processes must ask."""
        is_cuda = self._device.type == "cuda"
        mine = {
            "cpu": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(self._device)] if is_cuda else [],
            "pools": {name: pool.state_dict() for name, pool in self._model.pools.items()},
        }
        return {
            "step": self.step,
            "stage": self._stages.index(self._stage),
            "stage_began": self._stage_began,
            "best": self._best,
            "pictures": len(self._data.train),
            **self._stepper.state_dict(),
            "ranks": self._world.gather(mine),
        }

    def _checkpoint(self, state: dict[str, Any] | None) -> Checkpoint:
        settings = {
            "model_type": self._name,
            "run": dataclasses.asdict(self._run),
            "model": dataclasses.asdict(self._config),
        }
        networks = {**self._stepper.networks(), **self._stepper.used_generators()}
        weights = {name: network.state_dict() for name, network in networks.items()}
        if self._model.style_codes is not None:
            weights["styles"] = {"codes": self._model.style_codes}
        # The way back begins with what is the target on the way there.
        examples = [
            [
                {name: _compact(tensor) for name, tensor in sample.items() if name in (given, "instances")}
                for sample in self._samples
            ]
            for given in ("input", "target")
        ]
        examples[1] = [{"input": example["target"]} for example in examples[1]]
        return Checkpoint(
            cards=cards_of(
                self._model,
                self._run,
                self._name,
                self._labels,
                size=self._data.train.preprocess.size,
                step=self.step,
                epoch_steps=self._epoch_steps,
                lost=self._lost,
            ),
            config=json.dumps(settings),
            networks=weights,
            examples=dict(zip(self._model.translators, examples, strict=False)),
            training_state=state,
        )

    def _introduce(self, recorder: Recorder) -> None:
        # What this run is, ready for --config.
        recorder.write("config.toml", to_toml(self._run, self._config))
        name, architecture = next(iter(self._model.translators.items()))
        count = sum(p.numel() for p in self._stepper.networks()[name].parameters()) / 1e6
        held_out = self._data.held_out
        measured = f"{len(held_out)} held out" if held_out else "no val/ or test/: no best.pt"
        if held_out and self._best_by is None:
            measured += ", no metric without --features: no best.pt"
        where = str(self._device) if self._world.size == 1 else f"{self._world.size} x {self._device.type}"
        what = "pairs" if self._model.data == "paired" else "pictures of the larger domain"
        precision = str(self._stepper.precision).removeprefix("torch.")
        recorder.say(
            f"{self._name} {architecture.name} ({count:.1f} M parameters) on {where}, {precision}: "
            f"{len(self._data.train)} {what}, {measured}; steps {self.step} to {self._schedule.last_step}"
        )

        if (teacher := self._model.teacher) is not None:
            its = teacher.card
            count = sum(p.numel() for p in teacher.generator.parameters()) / 1e6
            words = f"teacher {its.name}: {its.model_type} {its.generator.name} ({count:.1f} M parameters)"
            recorder.say(words if teacher.recognised is None else f"{words}; {teacher.recognised}")
        if self._pictures_before not in (None, len(self._data.train)):
            recorder.say(
                f"note: {self._pictures_before} training pictures before, {len(self._data.train)} now: from here on "
                "epochs and order are those of the new set"
            )

    def _workers(self) -> int:
        if self._run.workers is not None:
            return self._run.workers
        # On a CPU the networks need every core; a GPU waits for pictures otherwise.
        return 0 if self._device.type == "cpu" else 4


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


def _best_by(run: RunConfig, name: str, available: list[str]) -> str | None:
    """The metric that picks best.pt; None where nothing can be measured."""
    if run.features and run.output_channels not in (1, 3):
        raise UsageError(f"--features: expected 1 or 3 output channels, found {run.output_channels}")
    if run.best_by == "auto":
        return available[0] if available else None
    if run.best_by not in available:
        raise UsageError(f"--best-by {run.best_by}: {name} has {', '.join(available) or 'none'} here")
    return run.best_by


def _there_and_back(one: str, other: str) -> list[tuple[str, str]]:
    return [("real", one), ("fake", other), ("rec", one)]


def _compact(tensor: Tensor) -> Tensor:
    """Half precision tells all grey levels apart, and any other number is as good for a proof."""
    return tensor.half() if tensor.is_floating_point() else tensor


def _split(sample: Sample, batch: int) -> list[Sample]:
    parts = {name: torch.split(tensor, batch) for name, tensor in sample.items()}
    return [dict(zip(parts, tensors, strict=True)) for tensors in zip(*parts.values(), strict=True)]


def _is_over(minutes: float | None, began: float) -> bool:
    return minutes is not None and time.monotonic() - began >= minutes * 60
