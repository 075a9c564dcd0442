"""Cases for a machine: they sleep, so that any number beside each other is as fast as one."""

import time
from functools import partial

from side_by_side import Case, Tell

from ghostify.errors import InputError


def sleep(steps: int, seconds: float, tell: Tell) -> None:
    for done in range(steps):
        tell.step(done, steps)
        time.sleep(seconds)
    tell.step(steps, steps)
    tell.rows("slept", [{"part": part, "steps": steps} for part in ("first", "second")])


def refuse(tell: Tell) -> None:
    tell.step(0, 1)
    raise InputError("nothing can be done")


def sleeper(name: str, steps: int, seconds: float = 0.02, *, shares: bool = True) -> Case:
    return Case(name, partial(sleep, steps, seconds), shares, warm=1, probe=3)


def refuser(name: str) -> Case:
    return Case(name, refuse)
