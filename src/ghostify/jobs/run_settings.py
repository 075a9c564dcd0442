"""The settings of a run: what is asked for, how the network learns, and where."""

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ghostify.errors import InputError, spelled
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.jobs.recipe import LAST_SEED, Recipe
from ghostify.transform.reconstruct import EFFORTS, Effort

# Files of a run's folder, beside those of the network for an engine, and the folder of what was finished on the way.
METRICS, REPORT, PLAN, NETWORK = "metrics.json", "report.html", "plan.json", "network.safetensors"
STEPS = "steps"
RESULTS = (METRICS, REPORT, PLAN, NETWORK, f"{STEPS}/")
# A sweep's speeds where none is given.
SWEEP = (1.25, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class Tuning:
    """How long a network learns: epochs, or minutes.

    Args:
        epochs: Passes over the training images; None where minutes are given.
        minutes: Minutes for all, trials of learning rates included.
    """

    epochs: int | None = None
    minutes: float | None = None

    @classmethod
    def of(cls, text: str | float) -> Self:
        """From what users write: a number of epochs, or minutes as "10min".

        Example:
            >>> Tuning.of("5").epochs, Tuning.of("2.5min").minutes, Tuning.of(0).none
            (5, 2.5, True)
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min)?", str(text).strip())
        if found and found[2]:
            return cls(minutes=float(found[1]))
        if found and float(found[1]).is_integer():
            return cls(epochs=int(float(found[1])))
        raise InputError(
            f"{spelled('tune')} is {text!r}: expected a whole number of epochs, such as 5, or minutes, such as 10min"
        )

    @property
    def none(self) -> bool:
        return not (self.epochs or self.minutes)

    @property
    def words(self) -> str:
        if self.minutes is not None:
            return f"{self.minutes:g} minutes"
        return "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"


@dataclass(frozen=True)
class RunSettings:
    """The wishes for a run.

    Args:
        target_speedup: Times as fast as the original in float32; None: by ``max_accuracy_drop``, or a sweep's own.
        max_accuracy_drop: Points of the score that may be lost on held-out images before tuning.
        sweep: Make networks of several speeds.
        int8: Quantise.
        tune: How long the network learns.
        labels: Learn from labels, too, for a tenth of the loss.
        engine: "openvino" or "onnxruntime"; None: the faster one.
        threads: CPU threads of the engine.
        rivals: Make the rivals, too.
        images: Training images to plan and convert with.
        effort: See ``convert``.
        skip: Modules to leave, see ``plan``.
        recipe: How the network is trained first; None where it is trained.
        device: "cpu" or "cuda", to compute on.
        workers: Processes that decode images of a folder.
        seed: Seed of all that is drawn.
    """

    target_speedup: float | None = None
    max_accuracy_drop: float | None = None
    sweep: bool = False
    int8: bool = False
    tune: Tuning = Tuning(minutes=10)
    labels: bool = False
    engine: str | None = None
    threads: int = 1
    rivals: bool = False
    images: int = 1024
    effort: Effort = "refined"
    skip: tuple[str, ...] = ()
    recipe: Recipe | None = None
    device: str = "cpu"
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        speed, drop = self.target_speedup, self.max_accuracy_drop
        asked = [spelled(name) for name in ("target_speedup", "max_accuracy_drop", "sweep")]
        if (speed is None and drop is None and not self.sweep) or (drop is not None and (speed or self.sweep)):
            raise InputError(f"expected one of {asked[0]}, {asked[1]} and {asked[2]}")
        for name, (known, right) in self.bounds().items():
            if not known:
                value = getattr(self, name)
                written = f"{value:g}" if isinstance(value, float) else repr(value)
                raise InputError(f"{spelled(name)} is {written}: expected {right}")

    def bounds(self) -> dict[str, tuple[bool, str]]:
        """For each setting whether it is one to run with, and which are."""
        speed, drop = self.target_speedup, self.max_accuracy_drop
        return {
            "target_speedup": (speed is None or (is_number(speed) and speed > 1), "more than 1"),
            "max_accuracy_drop": (drop is None or (is_number(drop) and 0 <= drop < 100), "points, below 100"),
            "threads": (type(self.threads) is int and self.threads >= 1, "at least 1"),
            "images": (
                type(self.images) is int and self.images >= FEWEST_IMAGES,
                f"at least {FEWEST_IMAGES}, better some hundreds",
            ),
            "effort": (self.effort in EFFORTS, " or ".join(EFFORTS)),
            "seed": (type(self.seed) is int and 0 <= self.seed <= LAST_SEED, f"0 to {LAST_SEED}"),
        }

    @property
    def speeds(self) -> tuple[float, ...]:
        """The speeds to make networks for; none where an accuracy drop is the target."""
        if self.sweep:
            return tuple(sorted({*SWEEP, *([self.target_speedup] if self.target_speedup else [])}))
        return () if self.target_speedup is None else (self.target_speedup,)

    def as_json(self) -> dict[str, Any]:
        """All that the results depend on, for the record."""
        return {name: value for name, value in asdict(self).items() if name != "workers"} | {"tune": self.tune.words}


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def refuse_finished(out: Path, begun: bool) -> None:
    """Refuse a folder that holds the results of something else."""
    if (out / METRICS).exists() and not begun:
        raise InputError(f"{out} holds another run: choose another {spelled('out')}, or remove it")
