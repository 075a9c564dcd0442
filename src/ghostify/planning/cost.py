"""What each option of a convolution costs: multiply-adds, or milliseconds in an engine on this machine."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls
from torch import Tensor, nn

from ghostify.inference.deploy import deploy
from ghostify.inference.explain import layer_ms
from ghostify.planning.choose import Costs
from ghostify.planning.sites import Site, inputs_left, plan_of
from ghostify.progress import Progress
from ghostify.transform.plan import BLOCK_KERNELS, LayerPlan
from ghostify.transform.untrained import untrained

# Networks of random options that are profiled, the original apart.
SAMPLES = 10
BLOCKS_PER_GHOST = 4  # residual blocks in such a network, of which one is a ghost as a whole
LEAST_OF_LONGEST = 0.05  # of a kind's longest time: what is shorter counts as much as that
# Maps that an engine may make at once: what time follows is the number of such groups.
VECTORS = (1, 4, 8, 16, 32)
REST = ""  # the name of all that belongs to no site


@dataclass(frozen=True)
class Sample:
    """A network of some options as an engine profiled it.

    Args:
        chosen: Option of each site, by its number.
        ms: Of each site and of ``REST``.
    """

    chosen: Mapping[str, int]
    ms: Mapping[str, float]


def costs_of(sites: Mapping[str, Site], cost: Callable[[Site, LayerPlan, int], float]) -> Costs:
    """All options of all sites, each beside those of the producer that decides how many inputs are left.

    Args:
        cost: Of a site, an option of it and how many inputs are left.
    """
    alone, behind, producers = {}, {}, {}
    for name, site in sites.items():
        if site.producer is None:
            alone[name] = [cost(site, option, site.inputs) for option in site.options]
            continue
        before = sites[site.producer]
        producers[name] = site.producer
        left = [site.inputs - option.dropped * site.inputs // before.maps for option in before.options]
        behind[name] = [[cost(site, option, inputs) for option in site.options] for inputs in left]
    return Costs(alone, behind, producers, {name: site.within for name, site in sites.items() if site.within})


def draw_options(sites: Mapping[str, Site], seed: int) -> dict[str, int]:
    """A random option for each site.

    Where inputs can be merged, half are; and blocks become ghosts in turn, so that a few seeds have each in each way.
    """
    drawn = random.Random(seed)

    def draw(options: Sequence[LayerPlan]) -> int:
        return drawn.choice([index for index, option in enumerate(options) if option.merged is None])

    chosen: dict[str, int] = {}
    blocks = 0
    for name, site in sites.items():
        if site.total is not None:
            turn, rest = divmod(seed + blocks, BLOCKS_PER_GHOST)
            chosen[name] = 0 if rest else 1 + turn % (len(site.options) - 1)
            blocks += 1
        elif site.within is None:
            chosen[name] = draw(site.options)
        else:
            gone = len(site.options) - 1
            chosen[name] = gone if chosen[site.within] else draw(site.options[:gone])
    plans = plan_of(sites, chosen)
    for name, site in sites.items():  # when it is known how many inputs are left
        most = inputs_left(sites, plans, name) - 1
        merging = [
            index
            for index, option in enumerate(site.options)
            if option.merged is not None and option.merged <= most and replace(option, merged=None) == plans[name]
        ]
        if merging and drawn.random() < 0.5:
            chosen[name] = drawn.choice(merging)
    return chosen


def profile_samples(
    model: nn.Module,
    sites: Mapping[str, Site],
    example: Tensor,
    engine: str,
    threads: int,
    known: list[Sample],
    *,
    seed: int = 0,
    done: Callable[[Sample], None] = lambda sample: None,
    progress: Progress | None = None,
) -> list[Sample]:
    """The original and some networks of random options, each deployed and profiled by the engine.

    Args:
        known: Samples from before, which are not taken again.
        done: Told of each new one.
    """
    samples = list(known)
    for index in range(len(samples), SAMPLES + 1):
        if progress:
            progress(f"profile in {engine}", f"network {index + 1}", index, SAMPLES + 1)
        chosen = draw_options(sites, seed + index) if index else dict.fromkeys(sites, 0)
        network = deploy(untrained(model, plan_of(sites, chosen), example[:1]), example, engine=engine)
        found = layer_ms(network, example, engine, threads, homes=sites)
        samples.append(Sample(chosen, found))
        done(samples[-1])
    if progress:
        progress(f"profile in {engine}", "done", SAMPLES + 1, SAMPLES + 1)
    return samples


class TimeModel:
    """Milliseconds of a convolution's options, from samples.

    Convolutions that are alike share six numbers, none of them negative: for the start, for each multiply-add of the
    convolution, for each of its ghosts', and for each map that is written; and where inputs are merged, for the start
    of that and each multiply-add. Multiply-adds are those of whole vectors of maps: how many an engine makes at once
    is what explains the samples best. Blocks that are alike have a time for each option, of all in them that belongs
    to no convolution.

    Args:
        sites: By name.
        samples: Of networks of their options.
    """

    def __init__(self, sites: Mapping[str, Site], samples: Sequence[Sample]) -> None:
        fits = {vector: self.fitted(sites, samples, vector) for vector in VECTORS}
        self.vector = min(VECTORS, key=lambda vector: fits[vector][1])
        self.coefficients = fits[self.vector][0]
        self.rest = float(np.median([sample.ms[REST] for sample in samples]))

    def __call__(self, site: Site, option: LayerPlan, inputs: int) -> float:
        return float(self.coefficients[alike(site)] @ np.array(terms(site, option, inputs, self.vector)))

    @staticmethod
    def fitted(
        sites: Mapping[str, Site], samples: Sequence[Sample], vector: int
    ) -> tuple[dict[tuple[object, ...], np.ndarray], float]:
        """Coefficients of least squares of relative errors, by kind of site; and the sum of these squares."""
        rows: dict[tuple[object, ...], list[tuple[list[float], float]]] = {}
        for sample in samples:
            plans = plan_of(sites, sample.chosen)
            for name, site in sites.items():
                if name in sample.ms:
                    row = terms(site, plans[name], inputs_left(sites, plans, name), vector)
                    rows.setdefault(alike(site), []).append((row, sample.ms[name]))
        coefficients, squares = {}, 0.0
        for key, found in rows.items():
            matrix, ms = np.array([row for row, _ in found]), np.array([took for _, took in found])
            if key[0]:  # blocks: each option has a time of its own, and few samples, some of them disturbed
                coefficients[key] = np.array([np.median(ms[own == 1]) if own.any() else 0.0 for own in matrix.T])
                continue
            weight = 1 / np.maximum(ms, LEAST_OF_LONGEST * ms.max() + 1e-9)
            coefficients[key], residual = nnls(matrix * weight[:, None], ms * weight)
            squares += residual**2
        return coefficients, squares


def alike(site: Site) -> tuple[object, ...]:
    return site.total is not None, site.inputs, site.maps, site.taps, site.stride, site.pixels


def terms(site: Site, option: LayerPlan, inputs: int, vector: int) -> list[float]:
    """What the time of an option is a sum of, each relative to the whole layer's."""
    if site.total is not None:
        return [float(option.kept > 0), *(float(option.of_block and option.cheap == kind) for kind in BLOCK_KERNELS)]
    if option.kept == 0:
        return [0.0] * 6

    def filled(maps: int) -> int:
        return -(-maps // vector) * vector

    whole = filled(site.maps) * site.inputs * site.taps
    ghost = 9 if option.cheap == "depthwise" else option.kept
    made = option.kept + option.ghosted
    dense = filled(option.kept) * (option.merged or inputs) * site.taps
    merging = filled(option.merged or 0) * inputs * site.input_pixels / site.pixels
    return [
        1.0,
        dense / whole,
        filled(option.ghosted) * ghost / whole,
        made / site.maps,
        float(option.merged is not None),
        merging / whole,
    ]
