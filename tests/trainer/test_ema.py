"""The moving average of the generators' weights."""

from __future__ import annotations

import copy

import pytest
import torch
from drawings import write_pairs
from torch import nn

from i2i_trainer.checkpoint import load_checkpoint
from i2i_trainer.config import RunConfig
from i2i_trainer.ema import Ema
from i2i_trainer.loop import train
from i2i_trainer.models import config_type
from i2i_trainer.stepper import Stepper


def averaged(first: torch.Tensor, later: list[torch.Tensor], decay: float) -> torch.Tensor:
    """The formula in float64: the first steps weigh more."""
    average = first.double()
    for step, weight in enumerate(later):
        kept = min(decay, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * weight.double()
    return average


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_average_is_the_formula_with_its_warm_up(decay):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    history = [copy.deepcopy(network.state_dict())]
    average = Ema(network, decay)

    # 0.3 is reached by the warm-up after 3 steps, 0.9 after 80: before and behind it.
    for step in range(100):
        with torch.no_grad():
            for weight in network.parameters():
                weight += torch.randn_like(weight) * 0.1
        average.update(network, step)
        history.append(copy.deepcopy(network.state_dict()))

    for name, mine in average.network.named_parameters():
        wanted = averaged(history[0][name], [state[name] for state in history[1:]], decay)
        torch.testing.assert_close(mine.double(), wanted, rtol=0, atol=2e-6)


def test_statistics_of_batch_norms_are_copied_not_averaged():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    average = Ema(network, 0.999)

    for step in range(3):
        network(torch.randn(2, 3, 8, 8))
        average.update(network, step)

    norm, its = average.network[1], network[1]
    assert torch.equal(norm.running_mean, its.running_mean)
    assert torch.equal(norm.running_var, its.running_var)
    assert norm.num_batches_tracked == 3


def test_an_average_neither_learns_nor_touches_what_it_averages():
    network = nn.Conv2d(1, 1, 1)
    before = copy.deepcopy(network.state_dict())
    average = Ema(network, 0.9)
    with torch.no_grad():
        average.network.weight += 1
    average.update(network, 0)

    assert not any(weight.requires_grad for weight in average.network.parameters())
    assert all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


@pytest.fixture
def settings(tmp_path):
    write_pairs(tmp_path / "data" / "train", 2, 40, 40)
    return {"data": str(tmp_path / "data"), "size": (32, 32), "steps": 4, "device": "cpu", "sample_every": 100}


@pytest.fixture
def raw_weights(monkeypatch):
    """The generator's weights before the first step and after each."""
    seen = []
    step = Stepper.step

    def watched(self, batches, **arguments):
        generator = self.networks()["G"]
        if not seen:
            seen.append(copy.deepcopy(generator.state_dict()))
        losses = step(self, batches, **arguments)
        seen.append(copy.deepcopy(generator.state_dict()))
        return losses

    monkeypatch.setattr(Stepper, "step", watched)
    return seen


def test_a_training_stores_the_average_for_use_and_the_raw_weights_to_go_on(settings, raw_weights, tmp_path):
    train("pix2pix", RunConfig(**settings, out=str(tmp_path / "run"), ema=0.9, lr=0.01),
          config_type("pix2pix")(ngf=2, ndf=2), resume=None)  # fmt: skip

    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert len(raw_weights) == 5
    weights = {name for name in raw_weights[0] if "running" not in name and "num_batches" not in name}
    for name in weights:
        wanted = averaged(raw_weights[0][name], [state[name] for state in raw_weights[1:]], 0.9)
        torch.testing.assert_close(checkpoint.networks["G"][name].double(), wanted, rtol=0, atol=1e-6)
        assert torch.equal(checkpoint.training_state["generators"]["G"][name], raw_weights[-1][name])
    assert any(not torch.equal(checkpoint.networks["G"][name], raw_weights[-1][name]) for name in weights)


def test_a_training_without_an_average_stores_raw_weights(settings, raw_weights, tmp_path):
    train("pix2pix", RunConfig(**settings, out=str(tmp_path / "run"), ema=0),
          config_type("pix2pix")(ngf=2, ndf=2), resume=None)  # fmt: skip

    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert checkpoint.training_state["generators"] == {}
    assert checkpoint.networks["G"].keys() == raw_weights[-1].keys()
    assert all(torch.equal(checkpoint.networks["G"][name], weight) for name, weight in raw_weights[-1].items())
