"""From a wanted speed, or a share of the multiply-adds, to what becomes of each convolution."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ghostify.errors import InputError, OutOfReachError
from ghostify.fitting.calibration import FEW, checked_batches, first_images
from ghostify.inference.compare import compare
from ghostify.inference.deploy import deploy
from ghostify.inference.engines import FILE_ENGINES
from ghostify.measure.count import count
from ghostify.measure.environment import describe_environment
from ghostify.measure.latency import Comparison
from ghostify.modes import evaluating
from ghostify.planning.choose import Costs, cheapest, choose_options
from ghostify.planning.cost import Sample, TimeModel, costs_of, profile_samples
from ghostify.planning.harm import OutputHarm, harms_of
from ghostify.planning.measurements import Measurements, fingerprint
from ghostify.planning.plan_file import Plan, Point
from ghostify.planning.sites import Site, find_sites, plan_of
from ghostify.progress import Progress
from ghostify.transform.untrained import untrained

# Images by which options are compared: as many as this many multiply-adds allow, within bounds.
MACS_PER_TRIAL, FEWEST, MOST = 80e9, 16, 256
# Of these at once, and numbers in them.
MOST_AT_ONCE, LARGEST_TRIAL = 64, 2**20
# A plan for a speed is measured and corrected at most so often; a surplus below this share is left.
ROUNDS, SURPLUS = 6, 0.02
CURVE_POINTS = 9


@torch.inference_mode(False)
@torch.random.fork_rng(devices=[])
def plan(
    model: nn.Module,
    *,
    example: Tensor,
    calibration: Iterable[Tensor],
    target_macs: float | None = None,
    target_speedup: float | None = None,
    engine: str = "openvino",
    threads: int = 1,
    skip: Sequence[str] = (),
    round_to: int | None = None,
    whole_blocks: bool | None = None,
    merging: bool | None = None,
    measurements: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Choose what becomes of each convolution's maps so that a target holds and the output changes least.

    For each option of a convolution (numbers of kept, dropped, pointwise and depthwise ghosted maps, and of maps
    that its inputs are merged to) the error that it alone brings to the network's output is measured on images,
    without labels. For a speed-up, networks of random options are profiled in the engine for what each option costs
    there; the choice is then measured as a whole, and corrected until the target holds. The choice is optimal for
    these costs, if harms add up.

    Args:
        model: A trained network; given back as it was.
        example: An input ``[batch, channels, height, width]`` such as the network will get, to time it on.
        calibration: Batches of inputs, as of ``convert``; the first images serve.
        target_macs: Share of the original's multiply-adds not to exceed; or
        target_speedup: how many times as fast, both deployed.
        engine: "openvino" or "onnxruntime".
        threads: CPU threads of the engine.
        skip: Module names or patterns of convolutions to leave.
        round_to: Kept maps are a multiple of this number; None: 4 for a speed, 1 for multiply-adds.
        whole_blocks: Whether residual blocks may become ghosts as a whole; None: for a speed.
        merging: Whether convolutions may take combinations of their inputs; None: for multiply-adds.
        measurements: File for what is measured, so that a second call goes on where the first was interrupted.
        seed: Of the random networks.
        progress: Told of each measurement.
    Returns:
        The plan, a mapping for ``convert(plan=…)``.
    Raises:
        InputError: If not exactly one target is given, it is out of reach (the message says what is in reach), or
            the network or the images cannot serve.
    """
    if (target_macs is None) == (target_speedup is None):
        raise InputError("expected exactly one of target_macs and target_speedup")
    if target_macs is not None and not 0 < target_macs < 1:
        raise InputError(f"target_macs is {target_macs}: expected a share of the multiply-adds between 0 and 1")
    if target_speedup is not None and not target_speedup > 1:
        raise InputError(f"target_speedup is {target_speedup}: expected more than 1")
    if target_speedup is not None and engine not in FILE_ENGINES:
        raise InputError(f"engine is {engine!r}: expected one of {', '.join(FILE_ENGINES)}, which tell of layers")
    if whole_blocks is None:
        # Of multiply-adds they save little more than fewer maps do, of which refinement undoes more: docs/planning.md.
        whole_blocks = target_speedup is not None
    if merging is None:
        merging = target_macs is not None  # for a speed it takes longer to plan, and reached less: docs/planning.md
    if round_to is None:
        round_to = 1 if target_speedup is None else 4
    # Trials change it, and a network may change what it gets in place.
    model, example = copy.deepcopy(model), example.clone()
    batches = checked_batches(calibration, model)
    counted = count(model, tuple(example.shape[1:]))
    first = first_images(batches, int(min(MOST, max(FEWEST, MACS_PER_TRIAL / max(1, counted.macs)))))
    images = first.split(max(1, min(MOST_AT_ONCE, LARGEST_TRIAL // first[0].numel())))
    few = first[:FEW] if whole_blocks else None
    sites = find_sites(model, example[:1], counted, skip=skip, round_to=round_to, merging=merging, images=few)
    if not any(len(site.options) > 1 for site in sites.values()):
        raise InputError(f"{type(model).__name__} has no convolution that could be made cheaper")
    about = {
        "network": fingerprint(model.state_dict().items()),
        "images": fingerprint(("", batch) for batch in images),
        "example": list(example.shape),
        "round_to": round_to,
        "skip": list(skip),
        "whole_blocks": whole_blocks,
        "merging": merging,
    }
    kept = Measurements(measurements, about)
    planner = Planner(model, sites, harms_by_measurement(model, sites, images, kept, progress), counted.macs)
    if target_macs is not None:
        return planner.for_macs(target_macs)
    assert target_speedup is not None
    # The engines are the CPU's, wherever the harms were measured.
    timing = Timing(copy.deepcopy(model).cpu(), sites, example.cpu(), engine, threads, kept, progress)
    samples = timing.samples(seed)
    return planner.for_speedup(target_speedup, timing, samples)


@dataclass(frozen=True)
class Planner:
    """What is known of a network's options."""

    model: nn.Module
    sites: Mapping[str, Site]
    harms: Mapping[str, Sequence[float]]
    macs: int

    @property
    def fixed_macs(self) -> int:
        """Of all that belongs to no site."""
        whole = dict.fromkeys(self.sites, 0)
        return self.macs - round(self.macs_costs().of(whole))

    def macs_costs(self) -> Costs:
        return costs_of(self.sites, lambda site, option, inputs: float(site.macs(option, inputs)))

    def macs_share(self, chosen: Mapping[str, int]) -> float:
        return (self.fixed_macs + self.macs_costs().of(chosen)) / self.macs

    def harm(self, chosen: Mapping[str, int]) -> float:
        return sum(harms[chosen[name]] for name, harms in self.harms.items())

    def for_macs(self, target: float) -> Plan:
        costs, fixed = self.macs_costs(), self.fixed_macs
        least = self.macs_share(cheapest(self.harms, costs))
        if least > target:
            raise InputError(f"target_macs is {target:g}: at least {least:.3f} of the multiply-adds are left")

        def point(share: float) -> tuple[dict[str, int], Point]:
            chosen = choose_options(self.harms, costs, share * self.macs - fixed)
            return chosen, Point(self.macs_share(chosen), None, self.harm(chosen))

        chosen, reached = point(target)
        curve = tuple(point(share)[1] for share in np.linspace(least + 1e-9, 1, CURVE_POINTS))
        layers = plan_of(self.sites, chosen)
        return Plan(layers, ("macs", target), reached.macs, reached.harm, least, None, curve, describe_environment())

    def for_speedup(self, target: float, timing: "Timing", samples: Sequence[Sample]) -> Plan:
        model = TimeModel(self.sites, samples)
        costs = costs_of(self.sites, model)
        original = costs.of(dict.fromkeys(self.sites, 0)) + model.rest
        fastest = cheapest(self.harms, costs)
        limit = timing.of(fastest)
        if timing.progress:
            timing.progress("reachable", f"{1 / limit.ratio_high:.2f} times as fast", 1, 1)
        if 1 / limit.ratio_high < target:
            raise OutOfReachError(
                f"target_speedup is {target:g}: at most {1 / limit.ratio_high:.2f} can be reached "
                f"in {timing.engine} with {timing.threads} threads on this machine",
                1 / limit.ratio_high,
            )
        # What the whole takes of what its layers are said to take, as the choices so far were measured.
        bias = limit.ratio / ((costs.of(fastest) + model.rest) / original)
        floor = costs.of(fastest)
        best, chosen, measured = fastest, fastest, limit
        aim = 1 / target
        for _ in range(ROUNDS):
            budget = max(floor, aim / bias * original - model.rest)
            before, chosen = chosen, choose_options(self.harms, costs, budget * (1 + 1e-9))
            if chosen == before:
                break  # nothing between it and the target harms less
            found = timing.of(chosen)
            predicted = (costs.of(chosen) + model.rest) / original
            if found.ratio_high <= 1 / target and self.harm(chosen) <= self.harm(best):
                # Once may be luck, and is, where the best of several is taken: what counts is the worse of two.
                found = max(found, timing.of(chosen), key=lambda measured: measured.ratio_high)
            if found.ratio_high <= 1 / target and self.harm(chosen) <= self.harm(best):
                best, measured = chosen, found
                if found.ratio_high > (1 - SURPLUS) / target:
                    break
            bias = found.ratio / predicted
            # Half of the interval is held in reserve: what counts is its upper end.
            aim = 1 / target - (found.ratio_high - found.ratio)
        curve = []
        for share in np.linspace(floor, original - model.rest, CURVE_POINTS):
            options = choose_options(self.harms, costs, share * (1 + 1e-9))
            predicted = bias * (costs.of(options) + model.rest) / original
            curve.append(Point(self.macs_share(options), float(1 / predicted), self.harm(options)))
        return Plan(
            plan_of(self.sites, best),
            ("speedup", target),
            self.macs_share(best),
            self.harm(best),
            1 / limit.ratio_high,
            (1 / measured.ratio, 1 / measured.ratio_high, 1 / measured.ratio_low),
            tuple(curve),
            describe_environment()
            | {"engine": timing.engine, "engine_version": version(timing.engine), "threads": timing.threads},
        )


@dataclass(frozen=True)
class Timing:
    """Times of networks of some options, in one engine."""

    model: nn.Module
    sites: Mapping[str, Site]
    example: Tensor
    engine: str
    threads: int
    kept: Measurements
    progress: Progress | None

    def samples(self, seed: int) -> list[Sample]:
        """Profiles of networks of random options."""
        kind = f"profile in {self.engine} with {self.threads} threads"
        with evaluating(self.model), torch.no_grad():
            return profile_samples(
                self.model,
                self.sites,
                self.example,
                self.engine,
                self.threads,
                [Sample(row["chosen"], row["ms"]) for row in self.kept.of(kind)],
                seed=seed,
                done=lambda sample: self.kept.add(kind, **asdict(sample)),
                progress=self.progress,
            )

    @cached_property
    def original(self) -> nn.Module:
        """Deployed."""
        return deploy(self.model, self.example, engine=self.engine)

    def of(self, chosen: Mapping[str, int]) -> Comparison:
        """A network of these options over the original, both deployed."""
        if self.progress:
            self.progress("measure the whole", "", 0, 1)
        with evaluating(self.model), torch.no_grad():
            shaped = untrained(self.model, plan_of(self.sites, chosen), self.example[:1])
            faster = deploy(shaped, self.example, engine=self.engine)
            found = compare(self.original, faster, self.example, engine=self.engine, threads=self.threads)
        if self.progress:
            self.progress("measure the whole", f"{1 / found.ratio:.2f} times as fast", 1, 1)
        return found


def harms_by_measurement(
    model: nn.Module, sites: Mapping[str, Site], images: Sequence[Tensor], kept: Measurements, progress: Progress | None
) -> dict[str, tuple[float, ...]]:
    """The harm of each site's options, measured where it is not known yet."""
    known = {(row["site"], row["option"], row["maps"]): row["harm"] for row in kept.of("harm")}
    output = None

    def measure(site: str, option: str, maps: int) -> float:
        nonlocal output
        output = output or OutputHarm(model, sites, images)
        harm = output.measure(site, option, maps)
        kept.add("harm", site=site, option=option, maps=maps, harm=harm)
        return harm

    return harms_of(sites, measure, known, progress)
