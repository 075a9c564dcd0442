"""What `ghostify explain` says of the whole."""

import pytest

from ghostify.cli.explain import sentence
from ghostify.inference.explain import Explanation


@pytest.mark.parametrize(
    ("ms", "speed"),
    [((10.0, 8.0), "1.25 times as fast as the original"), ((10.0, 11.6), "16 % slower than the original")],
)
def test_the_ghosts_speed_is_said_as_people_say_it(ms: tuple[float, float], speed: str) -> None:
    found = Explanation((), {}, {}, (1000, 525), ms, "openvino", 1, ("fp32", "fp32"))
    assert sentence(found) == f"In openvino the ghost is {speed}, with 52.5 % of its multiply-adds."
