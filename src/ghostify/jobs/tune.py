"""Learn from the original by hints, at a learning rate that short trials choose."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify.errors import InputError
from ghostify.jobs.images_of_run import Data, Judged
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.run_settings import Tuning
from ghostify.jobs.steps import Steps
from ghostify.jobs.train import Teacher
from ghostify.modes import evaluating
from ghostify.progress import Progress

# Peak learning rates, of which neighbours are tried from the middle on: AdamW moves every weight by as much, which
# suits a narrow network and spoils a wide one (docs/keeping.md).
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
FIRST = 2
# A trial's share of the steps that follow, and its least steps.
TRIAL, LEAST_STEPS = 0.1, 10
JUDGES, SCORED = 1000, 5000  # held-out images that compare rates, and that say whether the network is better
STEPS_TO_TIME = 5
LABELS = 0.1  # of the loss, where they are asked for


@dataclass(frozen=True)
class TuningSettings:
    """How a network is tuned.

    Args:
        tuning: How long.
        labels: Learn from labels, too.
        device, workers, seed: As in ``RunSettings``.
    """

    tuning: Tuning
    labels: bool = False
    device: str = "cpu"
    workers: int = 0
    seed: int = 0

    def recipe(self, batch: int, **settings: Any) -> Recipe:
        """Steps of AdamW, BatchNorm's statistics held: they belong to the original's maps."""
        usual = Recipe(batch_size=batch, optimizer="adamw", freeze_norm=True, warmup_epochs=0.5, seed=self.seed)
        return replace(usual, **settings)


def tune(
    network: Callable[[], nn.Module],
    original: nn.Module,
    data: Data,
    settings: TuningSettings,
    steps: Steps,
    name: str,
    progress: Progress | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Teach a changed network the original's outputs and the ends of its blocks.

    Short trials choose the peak learning rate by held-out images, on which the result, too, has to be better: else the
    network stays as it was.

    Args:
        network: Gives the network before, each time anew.
        steps: Where trials and result are kept, under ``name``.
    Returns:
        The network, and how it was tuned: rates with their errors, epochs, and both scores.
    """
    batch = min(data.batch, max(2, data.sizes[0] // 4))
    before = steps.values(f"{name}, before.json", lambda: asdict(judge(network(), original, data, settings, SCORED)))
    length = steps.values(f"{name}, length.json", lambda: length_of(network, original, data, settings, batch, progress))
    found: dict[str, float] = {}

    def error(rate: float) -> float:
        key = f"{rate:g}"
        if key not in found:
            row = steps.values(f"{name}, rate {key}.json", lambda: {"error": tried(rate)})
            found[key] = math.inf if row["error"] is None else row["error"]
        return found[key]

    def tried(rate: float) -> float | None:
        """The error after a short training at this rate; None where it does not learn."""
        model, images = network(), length["trial_steps"] * batch
        part = data.part(images, settings.seed + 1)
        recipe = settings.recipe(batch, epochs=max(1, round(images / part.sizes[0])), lr=rate)
        if progress:
            progress(name, f"try rate {rate:g}", len(found), len(RATES))
        try:
            learn(model, original, part, recipe, settings, None, None)
        except InputError:  # the loss is no longer finite
            return None
        return judge(model, original, data, settings, JUDGES).error

    rate = best_rate(error)
    model, part = network(), data.part(length["images"], settings.seed)
    recipe = settings.recipe(batch, epochs=length["epochs"], lr=rate)
    learn(model, original, part, recipe, settings, steps.path(f"{name}.checkpoint"), renamed(progress, name))
    after = judge(model, original, data, settings, SCORED)
    kept = after.better_than(Judged(**before))
    told = {"rate": rate, "tried": found, "epochs": length["epochs"], "images": part.sizes[0]}
    return (model if kept else network()), {**told, "kept": kept, "before": before, "after": asdict(after)}


def best_rate(error: Callable[[float], float]) -> float:
    """The rate of least error, downhill from the middle one.

    Example:
        >>> best_rate(lambda rate: abs(rate - 1e-3)), best_rate(lambda rate: rate)
        (0.001, 3e-05)
    """
    place = FIRST
    up = place + 1 < len(RATES) and error(RATES[place + 1]) < error(RATES[place])
    way = 1 if up else -1
    while 0 <= place + way < len(RATES) and error(RATES[place + way]) < error(RATES[place]):
        place += way
    return RATES[place]


def length_of(
    network: Callable[[], nn.Module],
    original: nn.Module,
    data: Data,
    settings: TuningSettings,
    batch: int,
    progress: Progress | None,
) -> dict[str, int]:
    """Epochs, images of each, and steps of a trial; of minutes by the time that some steps take here."""
    whole = data.sizes[0]
    if settings.tuning.epochs is not None:
        epochs, images = settings.tuning.epochs, whole
    else:
        assert settings.tuning.minutes is not None
        few = data.part(STEPS_TO_TIME * batch, settings.seed)
        recipe = settings.recipe(batch, epochs=1, lr=RATES[0])
        for _ in range(2):  # what is compiled or allocated first is not to count
            started = time.perf_counter()
            learn(network(), original, few, recipe, settings, None, None)
            seconds = (time.perf_counter() - started) / max(1, few.sizes[0])
        trials = 1 + TRIAL * 3.5  # that many are usual
        images = int(60 * settings.tuning.minutes / seconds / trials)
        epochs, images = max(1, images // whole), min(whole, max(batch, images))
    steps = max(1, epochs * images // batch)
    return {"epochs": epochs, "images": images, "trial_steps": max(LEAST_STEPS, round(TRIAL * steps))}


def learn(
    model: nn.Module,
    original: nn.Module,
    data: Data,
    recipe: Recipe,
    settings: TuningSettings,
    checkpoint: Path | None,
    progress: Progress | None,
) -> None:
    """Train by hints, in place; the network is on the CPU afterwards."""
    teacher = Teacher(copy.deepcopy(original), weight=1 - LABELS if settings.labels else 1.0, hints=True)
    options = RunOptions(settings.device, settings.workers, checkpoint, resume=True)
    data.learn(model, recipe, teacher, options, progress)
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # its stub lacks it
    model.eval()


@torch.no_grad()
def judge(model: nn.Module, original: nn.Module, data: Data, settings: TuningSettings, images: int) -> Judged:
    """A network on so many images held out of train."""
    model, original = (copy.deepcopy(each).to(settings.device) for each in (model, original))
    with evaluating(model, original):
        return data.judge(model, original, images, settings.device, settings.workers)


def renamed(progress: Progress | None, task: str) -> Progress | None:
    """The same, under another task's name."""
    if progress is None:
        return None
    return lambda _, detail, done, total: progress(task, detail, done, total)


def words_of(told: Mapping[str, Any], unit: str) -> str:
    """How a network was tuned, as a sentence."""
    epochs = "1 epoch" if told["epochs"] == 1 else f"{told['epochs']} epochs"
    before, after = (100 * told[when]["score"] for when in ("before", "after"))
    scores = f"{before:.2f} → {after:.2f} % {unit} on held-out images"
    end = "" if told["kept"] else ", so it stays as it was"
    return (
        f"Learnt from the original for {epochs} of {told['images']:,} images at rate {told['rate']:g}: {scores}{end}."
    )
