"""A plan, and its readable file."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ghostify.atomic import replacing
from ghostify.changes import AnyPlan
from ghostify.changes.counts import plan_from_counts
from ghostify.changes.layer_plan import inside_changed_block, plan_from
from ghostify.errors import InputError
from ghostify.planning.made_for import Shapes

FORMAT, FORMER = "ghostify plan 2", "ghostify plan 1"


@dataclass(frozen=True)
class Point:
    """A point of the curve of budgets.

    Args:
        macs: Share of the original's multiply-adds.
        speedup: Predicted speed-up, where times were measured.
        output_error: Sum over layers of the output's mean squared error over its variance where this layer alone
            changes.
    """

    macs: float
    speedup: float | None
    output_error: float


@dataclass(frozen=True, eq=False)
class Plan(Mapping[str, AnyPlan]):
    """Plans of all convolutions and residual blocks, for ``convert(plan=…)``, and the reasons for them.

    Args:
        layers: By module name.
        target: The target asked for: "macs" or "speedup", and the figure.
        macs: Share of the original's multiply-adds.
        output_error: As in ``Point``.
        limit: Limit of what is in reach: the least share of the multiply-adds, or the highest speed-up.
        speedup: Measured speed-up and its 95 % interval; None where only multiply-adds were asked for.
        curve: Results of other budgets.
        made_on: Machine, versions, engine and threads.
        unprunable: Why no channels of a convolution can be dropped, by its name; those that are not here can lose some.
        network: The network for which it was made, see ``made_for``; None: any that has the layers.
        speedup_same_precision: Speed-up and interval over the original in the precision that was planned for; None
            where that is float32.
    """

    layers: Mapping[str, AnyPlan]
    target: tuple[str, float]
    macs: float
    output_error: float
    limit: float
    speedup: tuple[float, float, float] | None = None
    curve: tuple[Point, ...] = ()
    made_on: Mapping[str, Any] = field(default_factory=dict)
    unprunable: Mapping[str, str] = field(default_factory=dict)
    network: Shapes | None = None
    speedup_same_precision: tuple[float, float, float] | None = None

    def __getitem__(self, name: str) -> AnyPlan:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def what_can_be_dropped(unprunable: Mapping[str, str], convolutions: int) -> str:
    """How many convolutions can lose channels, and why most of the others cannot, as a sentence without its full stop.

    Args:
        unprunable: As in ``Plan``.
        convolutions: How many may change.
    Example:
        >>> what_can_be_dropped({"a": "grouped", "b": "grouped", "c": "summed"}, 5)
        'channels of 2 of 5 convolutions can be dropped; why not those of most others: grouped (2 of 3)'
        >>> what_can_be_dropped({"a": "stem.0 takes them", "b": "stem.1 takes them", "c": "summed"}, 3)
        'channels of 0 of 3 convolutions can be dropped; why not those of most others: stem.0 takes them (2 of 3)'
    """
    # Reasons that differ in the name of a layer only are one.
    kinds = {reason: re.sub(r"\S*[._\d]\S*", "…", reason) for reason in unprunable.values()}
    counts = Counter(kinds[reason] for reason in unprunable.values())
    total = counts.total()
    words = f"channels of {convolutions - total} of {convolutions} convolutions can be dropped"
    if not total:
        return words
    kind, times = counts.most_common(1)[0]
    reason = next(reason for reason in unprunable.values() if kinds[reason] == kind)
    return f"{words}; why not those of most others: {reason} ({times} of {total})"


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan, one line per layer, for people to read and edit."""
    about = {
        "format": FORMAT,
        "target": dict([plan.target]),
        "macs": plan.macs,
        "output_error": plan.output_error,
        "limit": plan.limit,
        "speedup": plan.speedup,
        "speedup_same_precision": plan.speedup_same_precision,
        "made_on": dict(plan.made_on),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()]
    lines.append(listed("curve", "[]", [json.dumps(asdict(point)) for point in plan.curve]))
    layers = [f"{json.dumps(name)}: {json.dumps(layer.row())}" for name, layer in plan.layers.items()]
    lines.append(listed("layers", "{}", layers))
    reasons = [f"{json.dumps(name)}: {json.dumps(reason)}" for name, reason in plan.unprunable.items()]
    lines.append(listed("unprunable", "{}", reasons))
    if plan.network is not None:
        shapes = [f"{json.dumps(name)}: {json.dumps(shape)}" for name, shape in plan.network.items()]
        lines.append(listed("network", "{}", shapes))
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def listed(name: str, brackets: str, rows: list[str]) -> str:
    return f'  "{name}": {brackets[0]}\n' + ",\n".join(f"    {row}" for row in rows) + f"\n  {brackets[1]}"


def read_plan(path: Path) -> Plan:
    """Read a plan, also one that was edited.

    Raises:
        InputError: If it is no plan; the message says why.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # such as a number of too many digits
        raise InputError(f"{path} is no plan: {error}") from error
    if not isinstance(found, dict) or found.get("format") not in (FORMAT, FORMER):
        raise InputError(f"{path} is no plan: expected an object with 'format': {FORMAT!r}")
    layers = found.get("layers")
    if not isinstance(layers, dict) or not layers:
        raise InputError(f"{path}: expected 'layers' with what becomes of each, by module name")
    if found["format"] == FORMER:
        found = renamed(found)
        plans = layers_of(path, layers, plan_from_counts)
        for name in layers.keys() - plans.keys():
            if not inside_changed_block(name, plans):
                raise InputError(
                    f"{path}: layer {name!r} keeps no channel: expected that only inside a block of ghosts"
                )
    else:
        plans = layers_of(path, layers, plan_from)
    try:
        (target,) = found["target"].items()
        return Plan(
            plans,
            target,
            float(found["macs"]),
            float(found["output_error"]),
            float(found["limit"]),
            tuple(found["speedup"]) if found["speedup"] else None,
            tuple(Point(**point) for point in found["curve"]),
            dict(found["made_on"]),
            dict(found.get("unprunable", {})),
            network_of(path, found.get("network")),
            tuple(same) if (same := found.get("speedup_same_precision")) else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: expected target, macs, output_error, limit, speedup, curve and made_on as plans have: {error}"
        ) from error


def network_of(path: Path, rows: Any) -> Shapes | None:
    """The network that a plan was made for; None where the file, as one written by hand, does not say."""
    if rows is None:
        return None
    if isinstance(rows, dict) and rows and all(map(is_shape, rows.values())):
        return {name: tuple(shape) for name, shape in rows.items()}
    raise InputError(f"{path}: expected 'network' with the shape of each convolution's weight, by module name, or none")


def is_shape(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(size) is int for size in value)


def layers_of(path: Path, rows: dict[str, Any], read: Callable[[Any], AnyPlan | None]) -> dict[str, AnyPlan]:
    """The plans of layers, without those that go with their block."""
    plans = {}
    for name, row in rows.items():
        try:
            plan = read(row)
        except InputError as error:
            raise InputError(f"{path}: layer {name!r}: {error}") from error
        if plan is not None:
            plans[name] = plan
    return plans


def renamed(found: dict[str, Any]) -> dict[str, Any]:
    """A plan of format 1 under today's names: output errors had another one."""
    try:
        curve = [{**point, "output_error": point["harm"]} for point in found["curve"]]
        for point in curve:
            del point["harm"]
        return {**found, "output_error": found["harm"], "curve": curve}
    except (KeyError, TypeError):
        return found  # which is refused with all that it lacks
