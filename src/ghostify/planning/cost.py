"""The cost of each option of a layer: multiply-adds, or milliseconds in an engine on this machine."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ghostify.changes import AnyPlan, LayerPlan
from ghostify.planning.candidates import Candidate, Candidates, inputs_left, less_dropped
from ghostify.planning.choose import Costs

BLOCKS_PER_CHANGE = 4  # residual blocks in a random network, of which one changes as a whole
LEAST_OF_LONGEST = 0.05  # of the longest time of a shape: errors of shorter times are relative to that
# Channels that an engine may compute at once: time follows the number of such groups.
VECTORS = (1, 4, 8, 16, 32)
REST = ""  # name for the time of all that belongs to no candidate


@dataclass(frozen=True)
class Sample:
    """The profile of a network of some options.

    Args:
        plans: Plans by layer; none for layers inside a block that changed as a whole.
        ms: Milliseconds of each layer, and of ``REST``.
    """

    plans: Mapping[str, AnyPlan]
    ms: Mapping[str, float]


def costs_of(candidates: Candidates, cost: Callable[[Candidate, AnyPlan, int], float]) -> Costs:
    """The costs of all options, for each number of inputs that a producer's options leave.

    Args:
        cost: Cost of a candidate's option for a number of input channels.
    """
    alone, behind, producers = {}, {}, {}
    for name, candidate in candidates.items():
        layer = candidate.layer
        if layer.producer is None:
            alone[name] = [cost(candidate, option, layer.in_channels) for option in candidate.options]
            continue
        producers[name] = layer.producer
        before = candidates[layer.producer]
        left = [less_dropped(layer.in_channels, option, before) for option in before.options]
        behind[name] = [[cost(candidate, option, inputs) for option in candidate.options] for inputs in left]
    blocks = {name: candidate.layer.block for name, candidate in candidates.items() if candidate.layer.block}
    return Costs(alone, behind, producers, blocks)


def original_plans(candidates: Candidates) -> dict[str, AnyPlan]:
    """Plans that change nothing."""
    return {name: candidate.options[0] for name, candidate in candidates.items()}


def draw_plans(candidates: Candidates, seed: int) -> dict[str, AnyPlan]:
    """Draw an option for each layer.

    Half of the inputs that can change do; blocks change in turn, so that a few seeds have each change of each.
    """
    drawn = random.Random(seed)
    plans: dict[str, AnyPlan] = {}
    blocks = 0
    for name, candidate in candidates.items():
        block = candidate.layer.block
        outputs = [option for option in candidate.options if isinstance(option, LayerPlan) and option.input is None]
        if not outputs:
            turn, rest = divmod(seed + blocks, BLOCKS_PER_CHANGE)
            plans[name] = candidate.options[0 if rest else 1 + turn % (len(candidate.options) - 1)]
            blocks += 1
        elif block is None or not plans[block].changes:
            plans[name] = drawn.choice(outputs)
    for name, plan in list(plans.items()):  # last, as it depends on the inputs that are left
        most = inputs_left(candidates, plans, name) - 1
        merging = [
            option
            for option in candidates[name].options
            if isinstance(option, LayerPlan) and option.input is not None
            if isinstance(plan, LayerPlan) and option.output == plan.output and option.input.in_channels <= most
        ]
        if merging and drawn.random() < 0.5:
            plans[name] = drawn.choice(merging)
    return plans


class TimeModel:
    """Predicts milliseconds of options, from samples.

    A layer's time is a sum of parts (``time_terms``), whose prices, none negative, layers of the same shape share: of a
    convolution its start, each multiply-add of it and of its ghosts, and each channel that is written; of an input
    change its start and each multiply-add. Multiply-adds are counted for whole vectors of channels, of the size that
    explains the samples best. Blocks of the same shape have a time for each option, without that of convolutions.

    Args:
        candidates: By name.
        samples: Profiles of networks of their options.
    """

    def __init__(self, candidates: Candidates, samples: Sequence[Sample]) -> None:
        fits = {vector: self.fitted(candidates, samples, vector) for vector in VECTORS}
        self.vector = min(VECTORS, key=lambda vector: fits[vector][1])
        self.prices = fits[self.vector][0]
        self.rest = float(np.median([sample.ms[REST] for sample in samples]))

    def __call__(self, candidate: Candidate, option: AnyPlan, inputs: int) -> float:
        prices = self.prices[candidate.layer.shape]
        terms = option.time_terms(candidate.layer, inputs, self.vector)  # type: ignore[arg-type]  # its own layer
        return sum(prices.get(term, 0.0) * amount for term, amount in terms.items())

    @staticmethod
    def fitted(
        candidates: Candidates, samples: Sequence[Sample], vector: int
    ) -> tuple[dict[tuple[object, ...], dict[str, float]], float]:
        """Prices with the least squares of relative errors, by shape of layer, and the sum of these squares."""
        rows: dict[tuple[object, ...], list[tuple[dict[str, float], float]]] = {}
        for sample in samples:
            for name, plan in sample.plans.items():
                if name in sample.ms:
                    layer = candidates[name].layer
                    terms = plan.time_terms(layer, inputs_left(candidates, sample.plans, name), vector)  # type: ignore[arg-type]  # its own layer
                    rows.setdefault(layer.shape, []).append((terms, sample.ms[name]))
        prices, squares = {}, 0.0
        for shape, found in rows.items():
            names = list(dict.fromkeys(term for terms, _ in found for term in terms))
            matrix = np.array([[terms.get(term, 0.0) for term in names] for terms, _ in found])
            ms = np.array([took for _, took in found])
            if all(len(terms) == 1 for terms, _ in found):
                # Each option has a time of its own, and few samples, some of them disturbed.
                own = [np.median(ms[column > 0] / column[column > 0]) for column in matrix.T]
                prices[shape] = dict(zip(names, map(float, own), strict=True))
                continue
            weight = 1 / np.maximum(ms, LEAST_OF_LONGEST * ms.max() + 1e-9)
            solved, residual = nnls(matrix * weight[:, None], ms * weight)
            prices[shape] = dict(zip(names, map(float, solved), strict=True))
            squares += residual**2
        return prices, squares
