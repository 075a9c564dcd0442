"""The fastest plan that costs no more accuracy than allowed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ghostify.errors import InputError, OutOfReachError, spelled
from ghostify.planning import convert
from ghostify.planning.plan_file import Plan
from ghostify.progress import Progress
from ghostify.transform.reconstruct import Effort

# The search begins with a speed that most networks reach, and halves what is between good and bad so often.
FIRST_SPEEDUP, STEPS = 1.3, 5


@dataclass(frozen=True)
class AllowedDrop:
    """The accuracy that a plan may cost, and how that is tried.

    Args:
        points: Points of the score, 0 to below 100.
        effort: Effort of the conversions. With "fast" the search is quick and the drop the larger one: refined, the
            same plan loses less.
        seed: Seed of the conversions.
    """

    points: float
    effort: Effort = "fast"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.points < 100:
            raise InputError(f"{spelled('max_accuracy_drop')} is {self.points:g}: expected points from 0 to below 100")


@dataclass(frozen=True)
class Trial:
    """A plan that was carried out without labels and scored.

    Args:
        speedup: The one that was asked for.
        score: The changed network's on the held-out images, 0..1.
        good: The drop is within the allowed one.
    """

    speedup: float
    score: float
    good: bool


def plan_for_accuracy(
    model: nn.Module,
    score: Callable[[nn.Module], float],
    batches: Sequence[Tensor],
    planned: Callable[[float], Plan],
    allowed: AllowedDrop,
    *,
    progress: Progress | None = None,
) -> tuple[Plan, tuple[Trial, ...]]:
    """Search for the highest speed-up whose ghost, made without labels, loses no more than allowed.

    Args:
        score: Share of what a network has right on images held out of train, 0..1.
        batches: To calibrate on.
        planned: Makes a plan for a speed-up, or raises ``OutOfReachError`` with the limit of the search.
        allowed: The drop, and how it is tried.
    Returns:
        The plan, and what was tried.
    Raises:
        InputError: If no speed-up is in reach, or no plan that was tried keeps to the drop.
    """
    original = score(model)
    best: Plan | None = None
    trials: list[Trial] = []
    refusal: OutOfReachError | None = None
    low, high, speedup = 1.0, float("inf"), FIRST_SPEEDUP
    for step in range(STEPS):
        if progress:
            progress("search", f"{speedup:.2f} times as fast", step, STEPS)
        try:
            found = planned(speedup)
        except OutOfReachError as error:
            refusal, limit = error, error.limit
        else:
            ghost = convert(model, plan=found, calibration=batches, effort=allowed.effort, seed=allowed.seed).model
            right = score(ghost)
            trials.append(Trial(speedup, right, 100 * (original - right) <= allowed.points))
            if trials[-1].good:
                best, low = found, speedup
            else:
                high = speedup
            limit = found.limit
        high = min(high, limit)
        if high <= low:
            break  # nothing between what is good and what is in reach
        speedup = (low * high) ** 0.5
    if progress:
        progress("search", "done", STEPS, STEPS)
    if refusal is not None and not trials:
        raise refusal
    if best is None:
        raise InputError(too_much_lost(trials, original, allowed))
    return best, tuple(trials)


def too_much_lost(trials: Sequence[Trial], original: float, allowed: AllowedDrop) -> str:
    """A sentence for when no trial keeps to the drop."""
    least = min(trials, key=lambda trial: trial.speedup)
    return (
        f"no speed-up down to {least.speedup:.2f} keeps to a drop of {allowed.points:g} points: "
        f"that one loses {100 * (original - least.score):.2f} of {100 * original:.2f}; "
        f"allow more, or have the plans refined ({spelled('effort', 'refined')})"
    )
