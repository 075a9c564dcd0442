"""Plan the change of each layer, for a speed or a share of the multiply-adds."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ghostify.changes import AnyPlan, Change, Convolution, LayerPlan
from ghostify.changes.registry import change_from, change_row
from ghostify.errors import InputError, OutOfReachError, spelled
from ghostify.fitting.calibration import FEW, checked_batches, first_images
from ghostify.fitting.precision import in_float32
from ghostify.fitting.trial import Trial, judged_of
from ghostify.inference.engines import TORCH_ENGINES, Precision, check_engine, precisions_of
from ghostify.measure.count import count
from ghostify.measure.environment import describe_environment
from ghostify.measure.latency import Comparison
from ghostify.modes import random_state_kept, without_autocast, without_inference_mode
from ghostify.needed import refuse_missing
from ghostify.plain_part import is_detector, plain_part
from ghostify.planning.candidates import Candidate, Candidates, find_candidates, inputs_left, offer_for, why_nothing
from ghostify.planning.choose import Choice, Costs, cheapest, choose_options
from ghostify.planning.cost import Sample, TimeModel, costs_of
from ghostify.planning.made_for import weight_shapes
from ghostify.planning.measurements import Measurements, fingerprint, structure_of
from ghostify.planning.plan_file import Plan, Point, what_can_be_dropped
from ghostify.planning.sensitivity import Errors, output_errors
from ghostify.planning.timing import EngineTiming, Timing
from ghostify.progress import Progress
from ghostify.structure.norms import without_norms
from ghostify.transform.changeable import plain_copy
from ghostify.transform.detector import plain_inputs
from ghostify.transform.reconstruct import memory_format_for
from ghostify.wrappers import unwrapped

# Images on which options are compared: as many as these multiply-adds allow, within bounds. A quarter of them judge.
MACS_PER_TRIAL, FEWEST, MOST = 80e9, 48, 256
# Of these at once, and numbers in them: of 16 and fewer PyTorch computes convolutions in a slower way.
MOST_AT_ONCE, LARGEST_TRIAL = 64, 2**22
# A plan for a speed is measured and corrected at most so often; a surplus below this share is left.
ROUNDS, SURPLUS = 6, 0.02
CURVE_POINTS = 9


@without_inference_mode()
@without_autocast()
def plan(  # noqa: PLR0913  # the front door: the promised names, each a setting of the user's
    model: nn.Module,
    *,
    example: Tensor,
    calibration: Iterable[Tensor] | Iterable[Sequence[Tensor]],
    target_macs: float | None = None,
    target_speedup: float | None = None,
    engine: str = "openvino",
    threads: int = 1,
    int8: bool = False,
    bf16: bool = False,
    skip: Sequence[str] = (),
    round_to: int | None = None,
    whole_blocks: bool | None = None,
    merging: bool | None = None,
    output_weights: Sequence[float] | None = None,
    measurements: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Choose a change of each convolution and residual block, so that a target is met and the output error is least.

    For a speed-up, networks of random options are profiled in the engine to find the cost of each option there. The
    error of the network's output under each change of each layer alone is measured on images, without labels. The
    choice for a speed is then measured as a whole, and corrected until the target is met. The choice is optimal for
    these costs, if errors add up.

    Args:
        model: A trained network, of a detector its plain part: backbone, pyramid and head; left untouched.
        example: An input ``[batch, channels, height, width]`` such as users will have, for timing; for a detector, of
            its plain part.
        calibration: Batches of inputs, as in ``convert``; the first images are used.
        target_macs: Share of the original's multiply-adds not to exceed; or
        target_speedup: how many times as fast as the original in float32, both deployed.
        engine: "openvino" or "onnxruntime", on the CPU; "compile", ``torch.compile``, or "eager", PyTorch as it is, on
            the example's device: on a GPU by its own events, and compiled networks as CUDA graphs.
        threads: CPU threads of the engine.
        int8: The planned network is to run in int8, as ``export(int8=…)`` writes it: its layers' times are those in
            int8. The output errors are those of the changes alone.
        bf16: It is to run in bf16, which OpenVINO computes in by itself where the processor does.
        skip: Module names or patterns of convolutions to leave.
        round_to: Kept channels are a multiple of this number; None: 4 for a speed, 1 for multiply-adds.
        whole_blocks: Let residual blocks change as a whole; None: for a speed only.
        merging: Let convolutions take combinations of their input channels; None: for multiply-adds only.
        output_weights: Weight of the error of each tensor that the network returns, each over its own variance; a
            RetinaNet's are logits and offsets of boxes. None: all count alike.
        measurements: File for what is measured, so that a second call goes on where the first was interrupted.
        seed: Seed of the random networks.
        progress: Called at each measurement.
    Returns:
        The plan, a mapping for ``convert(plan=…)``.
    Raises:
        InputError: If not exactly one target is given, it is out of reach (the message says what is in reach), or
            the network or the images cannot serve.
    """
    if (target_macs is None) == (target_speedup is None):
        raise InputError(f"expected exactly one of {spelled('target_macs')} and {spelled('target_speedup')}")
    if target_macs is not None and not 0 < target_macs < 1:
        raise InputError(
            f"{spelled('target_macs')} is {target_macs}: expected a share of the multiply-adds between 0 and 1"
        )
    if target_speedup is not None and not target_speedup > 1:
        raise InputError(f"{spelled('target_speedup')} is {target_speedup}: expected more than 1")
    if output_weights is not None and not (min(output_weights, default=0) >= 0 and 0 < sum(output_weights) < math.inf):
        raise InputError(
            f"{spelled('output_weights')} is {list(output_weights)}: expected finite numbers from 0 on, and one above"
        )
    precision = precision_for(int8=int8, bf16=bf16, timed=target_speedup is not None)
    if target_speedup is not None:
        check_engine(engine)
        precisions_of(precision, engine, example)  # refused before anything is measured
    where = example.device if engine in TORCH_ENGINES else torch.device("cpu")  # of the files' engines
    timed_in = EngineTiming(engine, threads, precision, where.type)
    # Changes that save multiply-adds need not save time, and the other way round: docs/planning.md.
    offer = offer_for(
        "macs" if target_speedup is None else "speedup",
        inputs=merging,
        blocks=whole_blocks,
        round_to=round_to or (1 if target_speedup is None else 4),
    )
    # A network may change what it gets in place.
    model, example = unwrapped(model), example.clone()
    shapes = weight_shapes(model)
    if is_detector(model):
        calibration = plain_inputs(model, calibration)
        model = plain_part(model)
    counted = count(model, tuple(example.shape[1:]))
    larger = in_float32(model, checked_batches(calibration, model))
    example = example if larger.before is None else example.float()
    model = plain_copy(larger.model, skip, example[:1])  # which trials change
    images = images_of_trials(larger.batches, counted.macs)
    few = first_images(images, FEW) if offer.blocks else None
    candidates = find_candidates(model, example[:1], counted, offer, skip=skip, images=few)
    if not any(len(candidate.options) > 1 for candidate in candidates.values()):
        why = why_nothing(model, example[:1], skip)
        raise InputError(f"{type(model).__name__} has no convolution that could be made cheaper ({why})")
    known = Measurements(
        measurements,
        {
            "network": fingerprint(model.state_dict().items()),
            "structure": structure_of(model),
            "images": fingerprint(("", batch) for batch in images),
            "skip": list(skip),
            **({} if output_weights is None else {"output_weights": list(output_weights)}),
        },
    )
    with random_state_kept(model):  # layers that are tried draw weights
        measure = partial(measured_errors, model, candidates, images, known, progress, output_weights)
        planner = Planner(candidates, measure, counted.macs, count(model, tuple(example.shape[1:])).macs)
        if target_macs is not None:
            return replace(planner.for_macs(target_macs), network=shapes)
        assert target_speedup is not None
        example = example.to(where)
        if example.is_cuda:
            example = example.contiguous(memory_format=torch.channels_last)
        timing = Timing(copy.deepcopy(model).to(where), candidates, example, timed_in, known, progress)
        found = planner.for_speedup(target_speedup, timing, timing.samples(offer, seed))
        return replace(found, network=shapes)


def precision_for(*, int8: bool, bf16: bool, timed: bool) -> Precision:
    """The precision in which times are measured.

    Raises:
        InputError: If both are asked for, there is nothing to be timed, or NNCF is missing.
    """
    if int8 and bf16:
        raise InputError(f"expected at most one of {spelled('int8')} and {spelled('bf16')}")
    if (int8 or bf16) and not timed:
        raise InputError(
            f"multiply-adds are the same in every precision: leave {spelled('int8' if int8 else 'bf16')} out, or give "
            f"{spelled('target_speedup')}"
        )
    if int8:
        refuse_missing("nncf", needed_by="int8")
    return "int8" if int8 else "bf16" if bf16 else "fp32"


def images_of_trials(batches: Sequence[Tensor], macs: int) -> tuple[Tensor, ...]:
    """The first images, enough to compare options on, in batches that take little memory."""
    first = first_images(batches, int(min(MOST, max(FEWEST, MACS_PER_TRIAL / max(1, macs)))))
    judged = judged_of(len(first))
    parts = math.ceil(judged / max(1, min(MOST_AT_ONCE, LARGEST_TRIAL // first[0].numel())))
    return first.split(math.ceil(judged / parts))


def measured_errors(
    model: nn.Module,
    candidates: Candidates,
    images: Sequence[Tensor],
    known: Measurements,
    progress: Progress | None,
    weights: Sequence[float] | None,
) -> dict[str, tuple[float, ...]]:
    """The output error of each layer's options, measured where it is not known yet."""
    before: Errors = {}
    for row in known.of("held-out error"):
        with suppress(InputError, KeyError, TypeError, ValueError):  # of a kind, or a build, that is no more
            error = float(row["error"])
            if math.isfinite(error):
                before[str(row["layer"]), change_from(row["change"], Change)] = error
    trial: Trial | None = None

    @torch.no_grad()
    def measure(name: str, change: Change) -> float:
        nonlocal trial
        if trial is None:
            layers = {name: candidate.layer for name, candidate in candidates.items()}
            producers = {name: layer.producer for name, layer in layers.items() if layer.producer is not None}
            absorbers = {name: layer.absorbers for name, layer in layers.items() if isinstance(layer, Convolution)}
            # It runs some hundred times: MobileNetV2's forward pass takes half of the time so.
            quick = without_norms(model, images[0][:2])
            layout = memory_format_for(quick, images[0][:2])
            laid = [batch.contiguous(memory_format=layout) for batch in images]
            trial = Trial(
                quick.to(memory_format=layout), list(candidates), producers, laid, weights, absorbers=absorbers
            )
        error = change.output_error(trial, candidates[name].layer)
        known.add("held-out error", layer=name, change=change_row(change), error=error)
        return error

    return output_errors(candidates, measure, before, progress)


@dataclass(frozen=True)
class Planner:
    """Chooses among options.

    Args:
        candidates: By name.
        measure_errors: Gives the output errors of each one's options; called where they are needed, once, as it takes
            the longest: a target that is out of reach is found before.
        macs: Multiply-adds of the original.
        plain_macs: Those of it with plain convolutions: some layers compute their weights anew each time.
    """

    candidates: Candidates
    measure_errors: Callable[[], Mapping[str, Sequence[float]]]
    macs: int
    plain_macs: int

    @cached_property
    def errors(self) -> Mapping[str, Sequence[float]]:
        """Output errors of each one's options."""
        return self.measure_errors()

    @cached_property
    def unprunable(self) -> dict[str, str]:
        """Why no channels of a convolution can be dropped, by its name."""
        layers = {name: candidate.layer for name, candidate in self.candidates.items()}
        return {
            name: layer.unprunable
            for name, layer in layers.items()
            if isinstance(layer, Convolution) and layer.unprunable
        }

    @cached_property
    def droppable(self) -> str:
        """How many convolutions can lose channels, and why most of the others cannot."""
        convolutions = sum(isinstance(candidate.layer, Convolution) for candidate in self.candidates.values())
        return what_can_be_dropped(self.unprunable, convolutions)

    @cached_property
    def nothing_changed(self) -> Choice:
        """The first option of each layer."""
        return dict.fromkeys(self.candidates, 0)

    @cached_property
    def macs_costs(self) -> Costs:
        """Multiply-adds of all options."""

        def cost(candidate: Candidate, option: AnyPlan, inputs: int) -> float:
            return float(option.macs(candidate.layer, inputs))  # type: ignore[arg-type]  # its own layer

        return costs_of(self.candidates, cost)

    @cached_property
    def fixed_macs(self) -> int:
        """Multiply-adds of all that is no candidate."""
        return self.plain_macs - round(self.macs_costs.of(self.nothing_changed))

    def macs_share(self, chosen: Choice) -> float:
        """The share of the original's multiply-adds."""
        return (self.fixed_macs + self.macs_costs.of(chosen)) / self.macs

    def error(self, chosen: Choice) -> float:
        """The sum of the output errors."""
        return sum(self.errors[name][option] for name, option in chosen.items())

    def plans(self, chosen: Choice) -> dict[str, AnyPlan]:
        """The chosen options."""
        return {name: self.candidates[name].options[option] for name, option in chosen.items()}

    def choose(self, costs: Costs, budget: float) -> Choice:
        """The options of least error within a budget."""
        return self.without_idle_input_changes(choose_options(self.errors, costs, budget))

    def cheapest(self, costs: Costs) -> Choice:
        """The options that cost least, whatever their errors."""
        no_errors = {name: [0.0] * len(candidate.options) for name, candidate in self.candidates.items()}
        return self.without_idle_input_changes(cheapest(no_errors, costs))

    def without_idle_input_changes(self, chosen: Choice) -> Choice:
        """The same choice, without changes to so many inputs as the pruned layer before leaves anyway."""
        plans, tidied = self.plans(chosen), dict(chosen)
        for name, plan in plans.items():
            if not isinstance(plan, LayerPlan) or plan.input is None:
                continue
            if plan.input.in_channels >= inputs_left(self.candidates, plans, name):
                tidied[name] = self.candidates[name].options.index(LayerPlan(plan.output))
        return tidied

    def for_macs(self, target: float) -> Plan:
        """The least error for a share of the multiply-adds."""
        costs, fixed = self.macs_costs, self.fixed_macs
        least = self.macs_share(self.cheapest(costs))
        if least > target:
            raise InputError(
                f"{spelled('target_macs')} is {target:g}: at least {least:.3f} of the multiply-adds are left; "
                f"{self.droppable}"
            )

        def point(share: float) -> tuple[Choice, Point]:
            chosen = self.choose(costs, share * self.macs - fixed)
            return chosen, Point(self.macs_share(chosen), None, self.error(chosen))

        chosen, reached = point(target)
        curve = tuple(point(share)[1] for share in np.linspace(least + 1e-9, 1, CURVE_POINTS))
        return Plan(
            self.plans(chosen),
            ("macs", target),
            reached.macs,
            reached.output_error,
            least,
            None,
            curve,
            describe_environment(),
            self.unprunable,
        )

    def for_speedup(self, target: float, timing: Timing, samples: Sequence[Sample]) -> Plan:
        """The least error for a speed: chosen by predicted times, measured as a whole, and corrected."""
        model = TimeModel(self.candidates, samples)
        costs = costs_of(self.candidates, model)
        original = costs.of(self.nothing_changed) + model.rest
        fastest = self.cheapest(costs)
        limit = timing.of(self.plans(fastest))
        timing.say("reachable", f"{1 / limit.ratio_high:.2f} times as fast", 1, 1)
        if 1 / limit.ratio_high < target:
            raise OutOfReachError(
                f"{spelled('target_speedup')} is {target:g}: at most {1 / limit.ratio_high:.2f} can be reached "
                f"in {timing.engine.engine} with {timing.engine.threads} threads on this machine; {self.droppable}",
                1 / limit.ratio_high,
            )
        # What the whole takes of what its layers are said to take, as the choices so far were measured.
        bias = limit.ratio / ((costs.of(fastest) + model.rest) / original)
        floor = costs.of(fastest)
        best, chosen, measured = fastest, fastest, limit
        aim = 1 / target
        for _ in range(ROUNDS):
            budget = max(floor, aim / bias * original - model.rest)
            before, chosen = chosen, self.choose(costs, budget * (1 + 1e-9))
            if chosen == before:
                break  # nothing between it and the target has a smaller error
            found = timing.of(self.plans(chosen))
            predicted = (costs.of(chosen) + model.rest) / original
            if found.ratio_high <= 1 / target and self.error(chosen) <= self.error(best):
                # Once may be luck, and is, where the best of several is taken: what counts is the worse of two.
                again = timing.of(self.plans(chosen))
                found = max(found, again, key=lambda measured: measured.ratio_high)
            if found.ratio_high <= 1 / target and self.error(chosen) <= self.error(best):
                best, measured = chosen, found
                if found.ratio_high > (1 - SURPLUS) / target:
                    break
            bias = found.ratio / predicted
            # Half of the interval is held in reserve: what counts is its upper end.
            aim = 1 / target - (found.ratio_high - found.ratio)
        curve = []
        for share in np.linspace(floor, original - model.rest, CURVE_POINTS):
            options = self.choose(costs, share * (1 + 1e-9))
            predicted = bias * (costs.of(options) + model.rest) / original
            curve.append(Point(self.macs_share(options), float(1 / predicted), self.error(options)))
        alike = timing.in_same_precision(self.plans(best))
        return Plan(
            self.plans(best),
            ("speedup", target),
            self.macs_share(best),
            self.error(best),
            1 / limit.ratio_high,
            speed_of(measured),
            tuple(curve),
            timing.engine.described(),
            self.unprunable,
            speedup_same_precision=None if alike is None else speed_of(alike),
        )


def speed_of(measured: Comparison) -> tuple[float, float, float]:
    """How many times as fast, and the ends of its interval."""
    return 1 / measured.ratio, 1 / measured.ratio_high, 1 / measured.ratio_low
