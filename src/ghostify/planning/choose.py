"""The choice of options with the least error within a budget."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from ghostify.errors import InputError

# The number of the chosen option of each layer; layers inside a block that changes as a whole have none.
Choice = Mapping[str, int]


@dataclass(frozen=True)
class Costs:
    """The costs of options, in any unit.

    Args:
        alone: Layer without a producer → cost of each option.
        behind: Layer behind a producer → costs, ``[options of the producer][options of the layer]``.
        producers: Layer behind a producer → its name.
        blocks: Layer inside a block that may change as a whole → the block's name. Where the block takes another option
            than its first, and only there, such layers take none.
    """

    alone: Mapping[str, Sequence[float]]
    behind: Mapping[str, Sequence[Sequence[float]]]
    producers: Mapping[str, str]
    blocks: Mapping[str, str] = field(default_factory=dict)

    def of(self, chosen: Choice) -> float:
        """The sum for a choice."""
        alone = sum(costs[chosen[name]] for name, costs in self.alone.items() if name in chosen)
        behind = (
            costs[chosen[self.producers[name]]][chosen[name]] for name, costs in self.behind.items() if name in chosen
        )
        return alone + sum(behind)


def choose_options(errors: Mapping[str, Sequence[float]], costs: Costs, budget: float) -> dict[str, int]:
    """One option for each layer, so that they cost at most ``budget`` and the sum of their errors is the least.

    A mixed integer program for HiGHS (Huangfu and Hall 2018), by way of SciPy: one choice per layer, and one
    for each pair of a layer and its producer, whose cost depends on both.

    Args:
        errors: Layer → error of each option.
    Returns:
        The choice.
    Raises:
        InputError: If no choice keeps to the budget.
    Example:
        >>> errors = {"a": [0.0, 1.0], "b": [0.0, 3.0]}
        >>> costs = Costs({"a": [10.0, 5.0], "b": [10.0, 5.0]}, {}, {})
        >>> choose_options(errors, costs, 15.0)
        {'a': 1, 'b': 0}
    """
    most = budget * (1 + 1e-9)
    found = solve(errors, costs, budget)
    if costs.of(found) <= most:
        return found
    # The solver's whole numbers may be off by a millionth, and the costs with them: then the budget is a little less.
    try:
        return solve(errors, costs, budget * (1 - 1e-5))
    except InputError:
        least = cheapest(errors, costs)
        if costs.of(least) > most:
            raise
        return least


def cheapest(errors: Mapping[str, Sequence[float]], costs: Costs) -> dict[str, int]:
    """The choice that costs the least, whatever its error."""
    return solve(errors, costs, None)


def undominated(errors: Mapping[str, Sequence[float]], costs: Costs) -> dict[str, list[int]]:
    """The options that a best choice may need: none that another equals or beats in both error and cost.

    Only options that leave all consumers as many inputs are compared; a block keeps all its options.
    """
    consumers: dict[str, list[str]] = {}
    for name, producer in costs.producers.items():
        consumers.setdefault(producer, []).append(name)
    left = {}
    for name, own in errors.items():
        if name in costs.blocks.values():
            left[name] = list(range(len(own)))
            continue
        # One row for each number of inputs that a producer may leave.
        table = np.asarray(costs.behind[name] if name in costs.behind else [costs.alone[name]], float)
        equal: dict[tuple[object, ...], list[int]] = {}
        for option in range(len(own)):
            seen = (tuple(costs.behind[consumer][option]) for consumer in consumers.get(name, ()))
            equal.setdefault(tuple(seen), []).append(option)
        kept = []
        for options in equal.values():
            for option in options:
                others = [other for other in options if other != option]
                worse = (table[:, others] <= table[:, [option]]).all(0) & (np.take(own, others) <= own[option])
                same = (table[:, others] == table[:, [option]]).all(0) & (np.take(own, others) == own[option])
                if not (worse & (~same | (np.array(others, int) < option))).any():
                    kept.append(option)
        left[name] = sorted(kept)
    return left


def solve(errors: Mapping[str, Sequence[float]], costs: Costs, budget: float | None) -> dict[str, int]:
    """The choice with the least error within a budget, or without one with the least cost."""
    left = undominated(errors, costs)
    few = Costs(
        {name: [alone[option] for option in left[name]] for name, alone in costs.alone.items()},
        {
            name: [[table[row][option] for option in left[name]] for row in left[costs.producers[name]]]
            for name, table in costs.behind.items()
        },
        costs.producers,
        costs.blocks,
    )
    found = solve_program({name: [own[option] for option in left[name]] for name, own in errors.items()}, few, budget)
    return {name: left[name][option] for name, option in found.items()}


def solve_program(errors: Mapping[str, Sequence[float]], costs: Costs, budget: float | None) -> dict[str, int]:
    first, pairs, size = {}, {}, 0
    for name, own in errors.items():
        first[name], size = size, size + len(own)
    # A producer's options that leave a consumer as many inputs count as one to it.
    tables = {name: list(dict.fromkeys(map(tuple, table))) for name, table in costs.behind.items()}
    for name, table in tables.items():
        pairs[name], size = size, size + len(table) * len(table[0])
    error, cost = np.zeros(size), np.zeros(size)
    for name, own in errors.items():
        error[first[name] : first[name] + len(own)] = own
    for name, alone in costs.alone.items():
        cost[first[name] : first[name] + len(alone)] = alone
    rows: list[tuple[list[int], list[float], float]] = []  # indices, coefficients, and their sum, at most
    for name, own in errors.items():
        options, around = list(range(first[name], first[name] + len(own))), costs.blocks.get(name)
        if around is not None:  # one option of the layer, or another of its block than the first
            options += range(first[around] + 1, first[around] + len(errors[around]))
        rows.append((options, [1.0] * len(options), 1.0))
    loose: list[int] = []
    for name, table in tables.items():
        before, after = len(table), len(table[0])
        cost[pairs[name] : pairs[name] + before * after] = np.asarray(table, float).ravel()
        places = np.arange(pairs[name], pairs[name] + before * after).reshape(before, after)
        producer = costs.producers[name]
        for row, pair in zip(table, places, strict=True):
            options = [first[producer] + i for i, found in enumerate(costs.behind[name]) if tuple(found) == row]
            # At most: a layer that goes with its block has no pairs.
            rows.append(([*pair.tolist(), *options], [1.0] * after + [-1.0] * len(options), 0.0))
            loose.append(len(rows) - 1)
        for option, pair in enumerate(places.T):
            rows.append(([*pair.tolist(), first[name] + option], [1.0] * before + [-1.0], 0.0))
    where = [(row, column) for row, (columns, _, _) in enumerate(rows) for column in columns]
    values = [value for _, coefficients, _ in rows for value in coefficients]
    matrix = coo_array((values, tuple(zip(*where, strict=True))), shape=(len(rows), size))
    sums = np.array([total for _, _, total in rows])
    lowest = sums.copy()
    lowest[loose] = -np.inf
    constraints = [LinearConstraint(matrix.tocsr(), lowest, sums)]
    scale = max(cost.max(), 1e-12)
    if budget is not None:
        constraints.append(LinearConstraint(cost[None] / scale, -np.inf, budget / scale))
    # A pair is whole where both its layers are: only these need the constraint.
    whole = np.zeros(size, dtype=int)
    whole[: sum(map(len, errors.values()))] = 1
    objective = cost / scale if budget is None else error / max(error.max(), 1e-30)
    with silenced():
        found = milp(
            objective, integrality=whole, bounds=Bounds(0, 1), constraints=constraints, options={"mip_rel_gap": 0}
        )
    if found.x is None:
        raise InputError(f"no choice of options keeps to {budget:g}: {found.message}")
    shares = {name: found.x[first[name] : first[name] + len(own)] for name, own in errors.items()}
    return {name: int(np.argmax(own)) for name, own in shares.items() if own.max() > 0.5}


@contextmanager
def silenced() -> Iterator[None]:
    """Silence the process's standard output meanwhile.

    HiGHS 1.12, which SciPy 1.17 brings, prints a line there whatever its options:
    https://github.com/ERGO-Code/HiGHS/issues/2783.
    """
    sys.stdout.flush()
    before = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
