"""Latency of one network over another, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from scipy.stats import quantile_test


@dataclass(frozen=True)
class Conditions:
    """How both networks of a comparison ran, for the record; by default in eager PyTorch on one core.

    Args:
        engine: Name of the engine.
        threads: CPU threads.
        device: PyTorch's name of the device.
        dtype: PyTorch's name of the data type, without ``torch.``.
    """

    engine: str = "eager"
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"


EAGER = Conditions()


@dataclass(frozen=True)
class Comparison:
    """Latency of network b over network a.

    Args:
        ratio: b over a, the median over blocks; below 1, b is the faster.
        ratio_low: Lower end of the 95 % interval of that median.
        ratio_high: Its upper end.
        a_ms: Milliseconds of one call of a, the median over blocks.
        b_ms: The same of b.
        a_ms_quartiles: First and third quartile over blocks.
        b_ms_quartiles: The same of b.
        least_ms: Milliseconds of the fastest single call of a and of b, which others on the machine disturb least; None
            where single calls are not known.
        first_ms: Milliseconds of the first call of a and of b, compilation included; None where they are not known.
        blocks: Blocks timed of each network.
        calls_per_block: Calls averaged within a block, of a and of b.
    """

    ratio: float
    ratio_low: float
    ratio_high: float
    a_ms: float
    b_ms: float
    a_ms_quartiles: tuple[float, float]
    b_ms_quartiles: tuple[float, float]
    least_ms: tuple[float, float] | None
    first_ms: tuple[float, float] | None
    blocks: int
    calls_per_block: tuple[int, int]
    engine: str
    threads: int
    device: str
    dtype: str

    @property
    def different(self) -> bool:
        """True if the interval leaves out 1."""
        return not self.ratio_low <= 1 <= self.ratio_high

    def verdict(self, a: str = "a", b: str = "b") -> str:
        """The result as a sentence.

        Example:
            >>> summarise([10.0] * 9, [5.0] * 9).verdict("conv", "ghost")
            'ghost takes 0.500 (0.500–0.500) of the time of conv: 2.00 times as fast'
        """
        figures = f"{b} takes {self.ratio:.3f} ({self.ratio_low:.3f}–{self.ratio_high:.3f}) of the time of {a}"
        if not self.different:
            return f"{figures}: not measurably different"
        speed = f"{1 / self.ratio:.2f} times as fast" if self.ratio < 1 else f"{self.ratio:.2f} times as slow"
        return f"{figures}: {speed}"


def summarise(
    a_ms: Sequence[float],
    b_ms: Sequence[float],
    *,
    least_ms: tuple[float, float] | None = None,
    first_ms: tuple[float, float] | None = None,
    calls_per_block: tuple[int, int] = (1, 1),
    conditions: Conditions = EAGER,
) -> Comparison:
    """Median and 95 % interval of the ratio from paired block times.

    The interval is the exact one of a median from order statistics; it assumes nothing of the
    distribution but that blocks are independent.

    Args:
        a_ms: Milliseconds per call of network a, block by block.
        b_ms: The same of network b, measured next to it.
        least_ms, first_ms, calls_per_block: As a ``Comparison`` has them.
        conditions: How both ran.
    """
    ratios = [after / before for before, after in zip(a_ms, b_ms, strict=True)]
    found: Any = quantile_test(ratios, q=1, p=0.5)  # scipy's stubs take its interval for a number
    interval = found.confidence_interval(confidence_level=0.95)
    return Comparison(
        ratio=median(ratios),
        ratio_low=float(interval.low),
        ratio_high=float(interval.high),
        a_ms=median(a_ms),
        b_ms=median(b_ms),
        a_ms_quartiles=quartiles(a_ms),
        b_ms_quartiles=quartiles(b_ms),
        least_ms=least_ms,
        first_ms=first_ms,
        blocks=len(ratios),
        calls_per_block=calls_per_block,
        engine=conditions.engine,
        threads=conditions.threads,
        device=conditions.device,
        dtype=conditions.dtype,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    return float(low), float(high)
