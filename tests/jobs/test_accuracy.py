"""The search for the fastest plan within an accuracy drop."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import nn

from ghostify import InputError
from ghostify.changes import LayerPlan, PointwiseGhosts, Prune
from ghostify.data import ImageData, load_data
from ghostify.data.sample import draw_inputs
from ghostify.errors import OutOfReachError
from ghostify.jobs.accuracy import AllowedDrop, plan_for_accuracy
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import train
from ghostify.planning.plan_file import Plan

Score = Callable[[nn.Module], float]
Trained = tuple[nn.Module, Score, list[torch.Tensor]]


def planned(speedup: float) -> Plan:
    """Made up: the faster, the fewer maps; at most four times as fast."""
    kept = max(1, round(16 / speedup**2))
    return Plan({"conv1": LayerPlan(Prune(kept, 16 - kept))}, ("speedup", speedup), 1 / speedup, 0.0, 4.0)


@pytest.fixture
def trained(colours: Path) -> Trained:
    data = load_data(f"npz:{colours}", hold_out=0.4)
    model = Tiny()
    train(model, data, Recipe(epochs=12, batch_size=12, lr=0.02, augment=False))
    return model.eval(), partial(held_out_top1, data), draw_inputs(data, 36, 0)


def held_out_top1(data: ImageData, model: nn.Module) -> float:
    assert data.val is not None
    return evaluate(model, data.val, data).top1


def test_the_fastest_plan_within_the_drop_is_found(trained: Trained) -> None:
    model, score, batches = trained
    found, trials = plan_for_accuracy(model, score, batches, planned, AllowedDrop(20))
    good = [trial.speedup for trial in trials if trial.good]
    bad = [trial.speedup for trial in trials if not trial.good]
    assert found.target == ("speedup", max(good))
    assert not bad or max(good) < min(bad)
    assert len(trials) == 5
    assert max(good) <= 4


def no_faster_than(limit: float) -> Callable[[float], Plan]:
    """As ``planned``, which says four times, but less is in reach once it is measured."""

    def reached(speedup: float) -> Plan:
        if speedup > limit:
            raise OutOfReachError(f"at most {limit:.2f} can be reached", limit)
        return planned(speedup)

    return reached


@pytest.mark.parametrize("limit", [1.2, 2.0])
def test_a_speed_out_of_reach_leaves_slower_ones_to_search(trained: Trained, limit: float) -> None:
    model, score, batches = trained
    found, trials = plan_for_accuracy(model, score, batches, no_faster_than(limit), AllowedDrop(20))
    assert found.target == ("speedup", max(trial.speedup for trial in trials if trial.good))
    assert 1 < found.target[1] <= limit


def test_where_no_speed_up_is_in_reach_that_is_said(trained: Trained) -> None:
    model, score, batches = trained
    with pytest.raises(OutOfReachError, match=r"at most 0\.90 can be reached"):
        plan_for_accuracy(model, score, batches, no_faster_than(0.9), AllowedDrop(20))


def test_no_plan_within_the_drop_is_refused_with_what_was_lost(trained: Trained) -> None:
    model, score, batches = trained

    def ruinous(speedup: float) -> Plan:
        layers = {"conv1": LayerPlan(Prune(1, 15)), "conv2": LayerPlan(PointwiseGhosts(1, 31))}
        return Plan(layers, ("speedup", speedup), 0.1, 0.0, 4.0)

    with pytest.raises(InputError, match=r"no speed-up down to 1\.\d+ keeps to a drop of 0 points"):
        plan_for_accuracy(model, score, batches, ruinous, AllowedDrop(0))
