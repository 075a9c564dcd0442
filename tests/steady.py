"""A machine whose times are known, in the place of an engine that is timed."""

from collections.abc import Mapping

from ghostify.changes import AnyPlan
from ghostify.inference.engines import Precision
from ghostify.measure.latency import Comparison, summarise
from ghostify.planning.candidates import Offer, inputs_left
from ghostify.planning.cost import Sample, draw_plans, original_plans
from ghostify.planning.timing import SAMPLES, Timing

SHARE: dict[Precision, float] = {"fp32": 1, "int8": 1 / 3}


class SteadyTiming(Timing):
    """A machine whose every multiply-add takes a nanosecond, and every layer a microsecond to start.

    In int8 all takes a third.
    """

    def samples(self, offer: Offer, seed: int) -> list[Sample]:
        drawn = [original_plans(self.candidates), *(draw_plans(self.candidates, seed + i) for i in range(SAMPLES))]
        return [Sample(plans, self.profile(plans)) for plans in drawn]

    def profile(self, plans: Mapping[str, AnyPlan]) -> dict[str, float]:
        found = {}
        for name, layer in plans.items():
            macs = layer.macs(self.candidates[name].layer, inputs_left(self.candidates, plans, name))  # type: ignore[arg-type]  # its own layer
            found[name] = 1e-6 * macs + (1e-3 if macs else 0.0)
        return found | {"": 0.05}

    def compared(self, plans: Mapping[str, AnyPlan], precision: Precision) -> Comparison:
        original, faster = (sum(self.profile(p).values()) for p in (original_plans(self.candidates), plans))
        original, faster = original * SHARE[precision], faster * SHARE[self.engine.precision]
        # A whole network takes a tenth more than its layers, which the choice has to be corrected for.
        return summarise([original] * 9, [1.1 * faster * (1 + 0.002 * (turn % 3 - 1)) for turn in range(9)])
