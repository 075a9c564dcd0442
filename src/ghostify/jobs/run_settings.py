"""The settings of a run: how its networks are trained, how its ghost is made, and where."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from ghostify.errors import InputError, spelled
from ghostify.jobs.recipe import Recipe
from ghostify.layers.ghost_conv import Cheap
from ghostify.transform.reconstruct import Effort

# Files of a run's folder; those of the networks have their names.
METRICS, REPORT = "metrics.json", "report.html"
CHECKPOINTS = "checkpoints"
TITLES = {"original": "original", "ghost": "ghost", "narrow": "narrower network"}
RESULTS = (METRICS, REPORT, f"{CHECKPOINTS}/", *(f"{name}.safetensors" for name in TITLES))
# Of the original's peak learning rate: a high one spoils a good start.
GHOST_LR = 0.1


@dataclass(frozen=True)
class GhostSettings:
    """How the trained original becomes its ghost.

    Args:
        ratio, cheap_kernel_size, cheap, effort: See ``convert``.
        image_count: Training images to calibrate it on.
        ghost_epochs: Epochs of its own training; None for half of the original's.
    """

    ratio: int = 2
    cheap_kernel_size: int = 3
    cheap: Cheap = "pointwise"
    image_count: int = 1024
    effort: Effort = "fast"
    ghost_epochs: int | None = None

    def recipe(self, original: Recipe) -> Recipe:
        """The ghost's recipe: the original's, shorter and with a tenth of its learning rate.

        Example:
            >>> short = GhostSettings().recipe(Recipe(epochs=5, lr=0.05))
            >>> short.epochs, round(short.lr, 4)
            (3, 0.005)
        """
        return replace(
            original,
            epochs=math.ceil(original.epochs / 2) if self.ghost_epochs is None else self.ghost_epochs,
            lr=original.lr * GHOST_LR,
            warmup_epochs=min(original.warmup_epochs, 0.5),
        )


@dataclass(frozen=True)
class RunSettings:
    """How a run trains and measures.

    Args:
        recipe: How the original and the narrower network are trained.
        ghost: How the ghost is made.
        device: "cpu" or "cuda".
        workers: Processes that decode images of a folder.
        blocks: Blocks timed of each network, see ``compare``.
        resume: Go on with trainings that began in the run's folder.
    """

    recipe: Recipe
    ghost: GhostSettings = GhostSettings()
    device: str = "cpu"
    workers: int = 0
    blocks: int = 30
    resume: bool = False


def refuse_finished(out: Path, resume: bool) -> None:
    """Refuse a folder that holds a finished run, unless that is to be gone on with."""
    if (out / METRICS).exists() and not resume:
        raise InputError(f"{out} holds a finished run: choose another {spelled('out')}, or remove it")
