"""Sensitivity: the error that each option of a layer alone brings to the network's output, without labels."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from scipy.interpolate import PchipInterpolator

from ghostify.changes import AnyPlan, Change
from ghostify.planning.candidates import Candidate, Candidates
from ghostify.progress import Progress

# Errors in between are read off a curve.
MEASURED_AT = (0.75, 0.5, 0.25, 0.125)

Errors = dict[tuple[str, Change], float]


def output_errors(
    candidates: Candidates,
    measure: Callable[[str, Change], float],
    known: Errors,
    progress: Progress | None = None,
) -> dict[str, tuple[float, ...]]:
    """The output error of each option of each layer: measured at some sizes, read off a curve in between.

    Args:
        measure: Measures the error of one change of one layer.
        known: Errors that were measured before; new ones are added.
    """
    targets = [(name, change) for name, candidate in candidates.items() for change in measured_changes(candidate)]
    for index, key in enumerate(targets):
        if progress:
            progress("measure sensitivity", key[0], index, len(targets))
        if key not in known:
            known[key] = measure(*key)
    if progress:
        progress("measure sensitivity", "done", len(targets), len(targets))
    return {
        name: tuple(error_between(name, candidate, option, known) for option in candidate.options)
        for name, candidate in candidates.items()
    }


def measured_changes(candidate: Candidate) -> list[Change]:
    """The changes whose error is measured: those nearest to some shares of each kind, and all without a size."""
    by_curve: dict[str, dict[Change, None]] = {}
    for option in candidate.options:
        for change in option.changes:
            by_curve.setdefault(change.curve, {})[change] = None
    chosen: list[Change] = []
    for changes in by_curve.values():
        sized = {change: change.size for change in changes if change.size is not None}
        chosen += [change for change in changes if change.size is None]
        if sized:
            whole = next(iter(sized)).full_size(candidate.layer)
            ascending = sorted(sized, key=sized.__getitem__)
            nearest = {min(ascending, key=lambda change: abs(sized[change] - share * whole)) for share in MEASURED_AT}
            chosen += sorted(nearest, key=sized.__getitem__, reverse=True)
    return chosen


def error_between(name: str, candidate: Candidate, option: AnyPlan, known: Mapping[Any, float]) -> float:
    """The sum over an option's changes, each read off a monotone curve through the measured errors."""
    error = 0.0
    for change in option.changes:
        if change.size is None:
            error += known[name, change]
            continue
        measured = [other for other in measured_changes(candidate) if other.curve == change.curve]
        points = sorted((other.size or 0, known[name, other]) for other in measured)
        sizes, errors = zip(*points, (change.full_size(candidate.layer), 0.0), strict=True)
        # More channels never bring a larger error, but for what a measurement is off by.
        falling = torch.tensor(errors, dtype=torch.float64, device="cpu").flip(0).cummax(0).values.flip(0)
        error += float(PchipInterpolator(sizes, falling.numpy())(change.size))
    return error
