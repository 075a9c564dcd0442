"""About how long the steps of a run take on this machine."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.fitting.trial import judged_of
from ghostify.jobs.run_settings import RunSettings
from ghostify.modes import evaluating
from ghostify.planning.planner import FEWEST, MACS_PER_TRIAL, MOST
from ghostify.planning.timing import SAMPLES

# What the steps do, in runs of the network on one image, or in files that are written and opened: rough figures, from
# runs of ResNet-20 and ResNet-56; how near the estimates are was not measured.
OPTIONS = 13  # of a convolution
OF_A_RUN, OF_A_FIT = 0.5, 0.15  # of a trial only what follows the changed layer runs; of its fit only the block
WHOLES = 6  # networks that are timed as a whole
RUNS_TO_CONVERT = {"fast": 15, "refined": 60}
RUNS_TO_LEARN = 4.5  # forward and backward, and the original forward
TRIALS = 1.35  # of rates, beside the learning
IN_INT8, FOR_INT8 = 3.0, 15.0  # seconds to quantise for times alone, and with ranges from images
TIMED = 10.0  # seconds for a row's times


@dataclass(frozen=True)
class Speeds:
    """How fast things are here.

    Args:
        run: Seconds for an image in PyTorch.
        file: Seconds to write a file and open it in the engine.
        call: Seconds for an image in the engine.
    """

    run: float
    file: float
    call: float


@torch.no_grad()
def seconds_per_image(model: nn.Module, example: Tensor, images: int = 16, seconds: float = 1.0) -> float:
    """Seconds for an image of a small batch, the least of some runs."""
    x, started = example.expand(images, *example.shape[1:]), time.perf_counter()
    found: list[float] = []
    with evaluating(model):
        model(x)
        while not found or time.perf_counter() - started < seconds:
            begun = time.perf_counter()
            model(x)
            found.append((time.perf_counter() - begun) / images)
    return min(found)


def forecast(
    model: nn.Module, macs: int, speeds: Speeds, sizes: tuple[int, int, int], settings: RunSettings, rows: int
) -> dict[str, float]:
    """Seconds by step, in their order.

    Args:
        sizes: How many images are to learn from, are held out, and are to judge by.
        rows: Networks that are scored and timed.
    """
    train, _, test = sizes
    layers = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    images = min(settings.images, train)
    trials = int(min(MOST, max(FEWEST, MACS_PER_TRIAL / max(1, macs)), images))
    threads = torch.get_num_threads()
    tried, file = speeds.file + IN_INT8 * settings.int8, speeds.file + FOR_INT8 * settings.int8
    scored = test * speeds.call * settings.threads / threads + TIMED
    networks = max(1, len(settings.speeds))
    found: dict[str, float] = {}
    if settings.recipe is not None:
        found["train"] = 3 * speeds.run * settings.recipe.epochs * train
    trial = (OF_A_RUN * judged_of(trials) + OF_A_FIT * trials) * speeds.run
    found["plan"] = layers * OPTIONS * trial + (SAMPLES + 1) * (tried + 1)
    found["plan"] += networks * WHOLES * (tried + 5)
    found["convert"] = networks * RUNS_TO_CONVERT[settings.effort] * images * speeds.run
    if settings.tune.minutes is not None:
        found["tune"] = networks * 60 * settings.tune.minutes
    elif settings.tune.epochs:
        one = RUNS_TO_LEARN * speeds.run * train
        found["tune"] = networks * settings.tune.epochs * one * TRIALS
    found["export and measure"] = rows * (file + scored)
    return found


def in_words(seconds: float) -> str:
    """A duration as people say it.

    Example:
        >>> in_words(8), in_words(75), in_words(5000)
        ('10 s', '1 min', '1 h 25 min')
    """
    if seconds < 55:
        return f"{max(1, round(seconds / 10)) * 10} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {5 * round(minutes % 60 / 5)} min"
