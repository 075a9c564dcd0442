"""Two networks, timed in turn."""

from statistics import fmean
from typing import Protocol

from ghostify.measure.latency import EAGER, Comparison, Conditions, summarise


class Runner(Protocol):
    """A network that can be timed."""

    first_ms: float

    def times_ms(self, calls: int) -> list[float]:
        """Milliseconds of each call."""


def interleaved(a: Runner, b: Runner, *, blocks: int, block_ms: float, conditions: Conditions = EAGER) -> Comparison:
    """Time two networks in turn, block by block.

    Args:
        blocks: Blocks of each network, at least 6.
        block_ms: Intended length of a block, milliseconds.
        conditions: How both run, for the record.
    """
    runners = (a, b)
    # Allocation, kernel choice and caches settle in these first calls.
    calls = [max(1, round(block_ms / min(runner.times_ms(4)))) for runner in runners]
    times_ms: tuple[list[list[float]], list[list[float]]] = ([], [])
    for block in range(blocks):
        for side in (0, 1) if block % 2 == 0 else (1, 0):
            times_ms[side].append(runners[side].times_ms(calls[side]))
    return summarise(
        *([fmean(block) for block in side] for side in times_ms),
        least_ms=(min(map(min, times_ms[0])), min(map(min, times_ms[1]))),
        first_ms=(a.first_ms, b.first_ms),
        calls_per_block=(calls[0], calls[1]),
        conditions=conditions,
    )
