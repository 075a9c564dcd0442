"""The fastest plan that costs no more accuracy than allowed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ghostify.data.images import ImageData
from ghostify.errors import InputError, OutOfReachError, spelled
from ghostify.jobs.evaluate import evaluate
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
        points: Points of top-1, 0 to below 100.
        effort: Effort of the conversions. With "fast" the search is quick and the drop the larger one: refined, the
            same plan loses less.
        device: "cpu" or "cuda".
        seed: Seed of the conversions.
        workers: Processes that decode images of a folder; 0: none but this one.
    """

    points: float
    effort: Effort = "fast"
    device: str = "cpu"
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.points < 100:
            raise InputError(
                f"{spelled('max_accuracy_drop')} is {self.points:g}: expected points of top-1 from 0 to below 100"
            )


@dataclass(frozen=True)
class Trial:
    """A plan that was carried out without labels and scored.

    Args:
        speedup: The one that was asked for.
        top1: The ghost's on the held-out images, 0..1.
        good: The drop is within the allowed one.
    """

    speedup: float
    top1: float
    good: bool


def plan_for_accuracy(
    model: nn.Module,
    data: ImageData,
    batches: Sequence[Tensor],
    planned: Callable[[float], Plan],
    allowed: AllowedDrop,
    *,
    progress: Progress | None = None,
) -> tuple[Plan, tuple[Trial, ...]]:
    """Search for the highest speed-up whose ghost, made without labels, loses no more than allowed.

    Args:
        data: With images held out of train, which judge; the test images are not looked at.
        batches: To calibrate on.
        planned: Makes a plan for a speed-up, or raises ``OutOfReachError`` with the limit of the search.
        allowed: The drop, and how it is tried.
    Returns:
        The plan, and what was tried.
    Raises:
        InputError: If nothing is held out, no speed-up is in reach, or no plan that was tried keeps to the drop.
    """
    original = held_out_top1(model, data, allowed)
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
            top1 = held_out_top1(ghost, data, allowed)
            trials.append(Trial(speedup, top1, 100 * (original - top1) <= allowed.points))
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


def held_out_top1(model: nn.Module, data: ImageData, allowed: AllowedDrop) -> float:
    if data.val is None:
        raise InputError("an accuracy drop is judged by images held out of train: expected some")
    return evaluate(model, data.val, data, device=allowed.device, workers=allowed.workers).top1


def too_much_lost(trials: Sequence[Trial], original: float, allowed: AllowedDrop) -> str:
    """A sentence for when no trial keeps to the drop."""
    least = min(trials, key=lambda trial: trial.speedup)
    return (
        f"no speed-up down to {least.speedup:.2f} keeps to a drop of {allowed.points:g} points: "
        f"that one loses {100 * (original - least.top1):.2f} of {100 * original:.2f}; "
        f"allow more, or have the plans refined ({spelled('effort', 'refined')})"
    )
