"""The chosen options are the best ones, as enumeration finds them, for made-up costs."""

import itertools
import random

import pytest

from ghostify import InputError
from ghostify.planning.choose import Costs, cheapest, choose_options


def made_up(seed: int) -> tuple[dict[str, list[float]], Costs]:
    """Harms and costs of six sites: a chain of three, two of them within a block, one behind the same, one alone."""
    drawn = random.Random(seed)
    options = {name: drawn.randint(2 if name in "bcf" else 1, 4) for name in "abcdef"}
    harms = {name: [0.0, *sorted(drawn.random() for _ in range(n - 1))] for name, n in options.items()}
    producers = {"b": "a", "c": "b", "d": "a"}
    alone = {name: [drawn.uniform(1, 9) for _ in range(options[name])] for name in "aef"}
    behind = {
        name: [[drawn.uniform(1, 9) for _ in range(options[name])] for _ in range(options[producer])]
        for name, producer in producers.items()
    }
    if seed % 2:  # a producer's last options leave as many inputs, and one of them may be as good as the other
        for name, producer in producers.items():
            behind[name][-1] = behind[name][options[producer] // 2]
        harms["d"][-1] = harms["d"][len(harms["d"]) // 2]
    return harms, Costs(alone, behind, producers, {"b": "f", "c": "f"})


def all_choices(harms: dict[str, list[float]], costs: Costs) -> list[dict[str, int]]:
    numbers = itertools.product(*(range(len(own)) for own in harms.values()))
    choices = [dict(zip(harms, chosen, strict=True)) for chosen in numbers]
    return [
        chosen
        for chosen in choices
        if all((chosen[name] == len(harms[name]) - 1) == (chosen[block] > 0) for name, block in costs.within.items())
    ]


def harm(harms: dict[str, list[float]], chosen: dict[str, int]) -> float:
    return sum(harms[name][option] for name, option in chosen.items())


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("tightness", [0.1, 0.4, 0.8])
def test_no_other_choice_within_the_budget_harms_less(seed: int, tightness: float) -> None:
    harms, costs = made_up(seed)
    choices = all_choices(harms, costs)
    least, most = min(map(costs.of, choices)), max(map(costs.of, choices))
    budget = least + tightness * (most - least)
    best = min(harm(harms, chosen) for chosen in choices if costs.of(chosen) <= budget)
    found = choose_options(harms, costs, budget)
    assert costs.of(found) <= budget * (1 + 1e-9)
    assert found in choices
    assert harm(harms, found) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_no_choice_costs_less_than_the_cheapest_and_a_smaller_budget_is_refused(seed: int) -> None:
    harms, costs = made_up(seed)
    least = min(map(costs.of, all_choices(harms, costs)))
    assert costs.of(cheapest(harms, costs)) == pytest.approx(least)
    with pytest.raises(InputError, match="no choice of options keeps to"):
        choose_options(harms, costs, 0.99 * least)


def test_the_cheapest_choice_is_found_where_costs_are_far_apart() -> None:
    costs = Costs({"a": [1e9, 5e8], "b": [64, 32]}, {}, {})
    assert choose_options({"a": [0, 1], "b": [0, 0.5]}, costs, 5e8 + 32) == {"a": 1, "b": 1}
