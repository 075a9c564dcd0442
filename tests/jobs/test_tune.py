"""Learning from the original at a rate that trials choose."""

import copy
from pathlib import Path

import pytest
import torch
from small import Blocks
from torch import nn

from ghostify import InputError
from ghostify.data.own import data_from_batches
from ghostify.jobs import tune as tuning
from ghostify.jobs.classes_of_run import ClassesOfRun
from ghostify.jobs.images_of_run import Judged
from ghostify.jobs.run_settings import Tuning
from ghostify.jobs.steps import Steps
from ghostify.jobs.tune import RATES, TuningSettings, best_rate, judge, tune


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "LEAST_STEPS", 4)


@pytest.fixture
def original() -> nn.Module:
    return Blocks().eval()


@pytest.fixture
def data(original: nn.Module) -> ClassesOfRun:
    return ClassesOfRun(data_from_batches([torch.randn(100, 3, 8, 8) for _ in range(4)], original), labelled=False)


def disturbed(original: nn.Module, by: float) -> nn.Module:
    """The same network with noise on its weights."""
    other = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * parameter.std() * torch.randn_like(parameter) if parameter.numel() > 1 else 0)
    return other


SETTINGS = TuningSettings(Tuning(epochs=3))


def test_a_network_comes_nearer_to_its_original(original: nn.Module, data: ClassesOfRun, tmp_path: Path) -> None:
    other = disturbed(original, 0.3)
    model, told = tune(lambda: copy.deepcopy(other), original, data, SETTINGS, Steps(tmp_path, {}), "net")
    assert told["kept"]
    assert told["after"]["error"] < 0.7 * told["before"]["error"]
    assert told["rate"] in RATES
    assert len(told["tried"]) >= 3
    assert min(told["tried"], key=told["tried"].__getitem__) == f"{told['rate']:g}"
    assert judge(model, original, data, SETTINGS, 100).error < judge(other, original, data, SETTINGS, 100).error
    assert all(not p.isnan().any() for p in model.parameters())


def test_what_is_no_better_is_not_kept(original: nn.Module, data: ClassesOfRun, tmp_path: Path) -> None:
    model, told = tune(lambda: copy.deepcopy(original), original, data, SETTINGS, Steps(tmp_path, {}), "net")
    assert told["before"]["score"] == 1.0
    assert not told["kept"]
    for mine, theirs in zip(model.parameters(), original.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_rate_at_which_nothing_is_learnt_is_passed_over(
    original: nn.Module, data: ClassesOfRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = tuning.learn

    def fails_above(model, original, data, recipe, *rest):  # type: ignore[no-untyped-def]
        if recipe.lr > 1e-4:
            raise InputError("the loss is nan")
        learn(model, original, data, recipe, *rest)

    monkeypatch.setattr(tuning, "learn", fails_above)
    other = disturbed(original, 0.3)
    _, told = tune(lambda: copy.deepcopy(other), original, data, SETTINGS, Steps(tmp_path, {}), "net")
    assert told["rate"] <= 1e-4


@pytest.mark.parametrize("best", RATES)
def test_the_search_goes_downhill_to_the_best_rate(best: float) -> None:
    asked: list[float] = []

    def error(rate: float) -> float:
        asked.append(rate)
        return abs(RATES.index(rate) - RATES.index(best))

    assert best_rate(error) == best


def test_more_right_answers_count_before_a_smaller_error() -> None:
    assert Judged(0.5, 0.9).better_than(Judged(0.1, 0.8))
    assert Judged(0.1, 0.9).better_than(Judged(0.5, 0.9))
    assert not Judged(0.5, 0.9).better_than(Judged(0.5, 0.9))


def test_a_part_of_the_images_is_drawn_by_the_seed(data: ClassesOfRun) -> None:
    first, again, other = (data.part(10, seed).images.train for seed in (0, 0, 1))
    assert first.indices == again.indices != other.indices
    assert data.part(10, 0).sizes == (10, 0, data.sizes[2])
    assert data.part(10_000, 0).images.train is data.images.train


def test_results_of_another_run_are_refused(tmp_path: Path) -> None:
    Steps(tmp_path / "steps", {"seed": 0})
    Steps(tmp_path / "steps", {"seed": 0})
    with pytest.raises(InputError, match=r"holds another run \(seed: 0, now 1\): choose another out, or remove it"):
        Steps(tmp_path / "steps", {"seed": 1})
    (tmp_path / "steps" / "run.json").write_text("{")
    with pytest.raises(InputError, match="is not what a run wrote there: remove the folder"):
        Steps(tmp_path / "steps", {"seed": 0})
