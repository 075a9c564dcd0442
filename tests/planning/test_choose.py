"""The chosen options are the best ones, as enumeration finds them, for made-up costs."""

import itertools
import random

import pytest

from ghostify import InputError
from ghostify.planning.choose import Costs, cheapest, choose_options


def made_up(seed: int) -> tuple[dict[str, list[float]], Costs]:
    """Errors and costs of six layers: a chain of three, two of them within a block, one behind the same, one alone."""
    drawn = random.Random(seed)
    options = {name: drawn.randint(2 if name in "bcf" else 1, 4) for name in "abcdef"}
    errors = {name: [0.0, *sorted(drawn.random() for _ in range(n - 1))] for name, n in options.items()}
    producers = {"b": "a", "c": "b", "d": "a"}
    alone = {name: [drawn.uniform(1, 9) for _ in range(options[name])] for name in "aef"}
    behind = {
        name: [[drawn.uniform(1, 9) for _ in range(options[name])] for _ in range(options[producer])]
        for name, producer in producers.items()
    }
    if seed % 2:  # a producer's last options leave as many inputs, and one of them may be as good as the other
        for name, producer in producers.items():
            behind[name][-1] = behind[name][options[producer] // 2]
        errors["d"][-1] = errors["d"][len(errors["d"]) // 2]
    return errors, Costs(alone, behind, producers, {"b": "f", "c": "f"})


def all_choices(errors: dict[str, list[float]], costs: Costs) -> list[dict[str, int]]:
    numbers = itertools.product(*(range(len(own)) for own in errors.values()))
    choices = [dict(zip(errors, chosen, strict=True)) for chosen in numbers]
    for chosen in choices:  # where a block changes, those inside have no option
        for name in [name for name, block in costs.blocks.items() if chosen[block] > 0]:
            del chosen[name]
    return choices


def error(errors: dict[str, list[float]], chosen: dict[str, int]) -> float:
    return sum(errors[name][option] for name, option in chosen.items())


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("tightness", [0.1, 0.4, 0.8])
def test_no_other_choice_within_the_budget_errors_less(seed: int, tightness: float) -> None:
    errors, costs = made_up(seed)
    choices = all_choices(errors, costs)
    least, most = min(map(costs.of, choices)), max(map(costs.of, choices))
    budget = least + tightness * (most - least)
    best = min(error(errors, chosen) for chosen in choices if costs.of(chosen) <= budget)
    found = choose_options(errors, costs, budget)
    assert costs.of(found) <= budget * (1 + 1e-9)
    assert found in choices
    assert error(errors, found) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_no_choice_costs_less_than_the_cheapest_and_a_smaller_budget_is_refused(seed: int) -> None:
    errors, costs = made_up(seed)
    least = min(map(costs.of, all_choices(errors, costs)))
    assert costs.of(cheapest(errors, costs)) == pytest.approx(least)
    with pytest.raises(InputError, match="no choice of options keeps to"):
        choose_options(errors, costs, 0.99 * least)


def test_the_cheapest_choice_is_found_where_costs_are_far_apart() -> None:
    costs = Costs({"a": [1e9, 5e8], "b": [64, 32]}, {}, {})
    assert choose_options({"a": [0, 1], "b": [0, 0.5]}, costs, 5e8 + 32) == {"a": 1, "b": 1}
