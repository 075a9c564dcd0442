"""A plan, and the readable file that it lies in."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ghostify.atomic import replacing
from ghostify.errors import InputError
from ghostify.transform.plan import LayerPlan

FORMAT = "ghostify plan 1"


@dataclass(frozen=True)
class Point:
    """What one budget gives.

    Args:
        macs: Share of the original's multiply-adds.
        speedup: Predicted, where times were measured.
        harm: Sum over layers of what their change alone does to the output: mean squared error over variance.
    """

    macs: float
    speedup: float | None
    harm: float


@dataclass(frozen=True, eq=False)
class Plan(Mapping[str, LayerPlan]):
    """What becomes of each convolution, for ``convert(plan=…)``, and why.

    Args:
        layers: By module name.
        target: What was asked for: "macs" or "speedup", and the figure.
        macs: Share of the original's multiply-adds.
        harm: As of ``Point``.
        limit: What is in reach: the least share of the multiply-adds, or the highest speed-up.
        speedup: Measured, with its 95 % interval; None where only multiply-adds were asked for.
        curve: What other budgets would give.
        made_on: Machine, versions, engine and threads.
    """

    layers: Mapping[str, LayerPlan]
    target: tuple[str, float]
    macs: float
    harm: float
    limit: float
    speedup: tuple[float, float, float] | None = None
    curve: tuple[Point, ...] = ()
    made_on: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LayerPlan:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan for people to read and edit: one line per layer."""
    about = {
        "format": FORMAT,
        "target": dict([plan.target]),
        "macs": plan.macs,
        "harm": plan.harm,
        "limit": plan.limit,
        "speedup": plan.speedup,
        "made_on": dict(plan.made_on),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()]
    lines.append(listed("curve", "[]", [json.dumps(asdict(point)) for point in plan.curve]))
    layers = [f"{json.dumps(name)}: {json.dumps(asdict(layer))}" for name, layer in plan.layers.items()]
    lines.append(listed("layers", "{}", layers))
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def listed(name: str, brackets: str, rows: list[str]) -> str:
    return f'  "{name}": {brackets[0]}\n' + ",\n".join(f"    {row}" for row in rows) + f"\n  {brackets[1]}"


def read_plan(path: Path) -> Plan:
    """Read a plan, also one that was edited.

    Raises:
        InputError: If it is no plan; says where it is not.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no plan: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} is no plan: expected an object with 'format': {FORMAT!r}")
    layers = found.get("layers")
    if not isinstance(layers, dict) or not layers:
        raise InputError(f"{path}: expected 'layers' with kept, ghosted and dropped maps by module name")
    plans = {name: layer_of(path, name, layer) for name, layer in layers.items()}
    try:
        (target,) = found["target"].items()
        return Plan(
            plans,
            target,
            float(found["macs"]),
            float(found["harm"]),
            float(found["limit"]),
            tuple(found["speedup"]) if found["speedup"] else None,
            tuple(Point(**point) for point in found["curve"]),
            found["made_on"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: expected target, macs, harm, limit, speedup, curve and made_on as plans have: {error}"
        ) from error


def layer_of(path: Path, name: str, layer: Any) -> LayerPlan:
    numbers = ("kept", "ghosted", "dropped")
    if not isinstance(layer, dict) or any(type(layer.get(key, 0)) is not int for key in numbers) or "kept" not in layer:
        raise InputError(f"{path}: layer {name!r}: expected whole numbers of kept, ghosted and dropped maps")
    if type(layer.get("merged", 0)) is not int and layer["merged"] is not None:
        raise InputError(f"{path}: layer {name!r}: expected merged to be a whole number, or null")
    if layer.keys() - {*numbers, "cheap", "merged"}:
        raise InputError(f"{path}: layer {name!r}: expected kept, ghosted, dropped, cheap and merged, and nothing else")
    try:
        return LayerPlan(**layer)
    except InputError as error:
        raise InputError(f"{path}: layer {name!r}: {error}") from error
