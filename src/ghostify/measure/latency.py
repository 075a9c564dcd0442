"""Latency of one network over another, side by side."""

from collections.abc import Callable, Mapping, Sequence
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
        dtype: PyTorch's name of the input's data type, without ``torch.``.
        precisions: Precision in which a computed, and b: "fp32" (as the input is), "bf16" or "int8".
    """

    engine: str = "eager"
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    precisions: tuple[str, str] = ("fp32", "fp32")


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
        least_ms: The fastest single call of a and of b: what is left of it where others share the machine;
            None where single calls are not known.
        first_ms: The first call of a and of b, cold, with whatever is compiled then; None where it is not known.
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
    precisions: tuple[str, str]

    @property
    def different(self) -> bool:
        """True where the interval leaves out 1."""
        return not self.ratio_low <= 1 <= self.ratio_high

    def verdict(self, a: str = "the first", b: str = "the second") -> str:
        """The result as a sentence.

        Example:
            >>> summarise([10.0] * 9, [5.0] * 9).verdict("conv", "ghost")
            'ghost is 2.00 times as fast as conv (2.00–2.00)'
        """
        if self.different:
            return f"{b} is {relative_time(self.ratio, a, (self.ratio_low, self.ratio_high))}"
        speed, low, high = (f"{1 / ratio:.2f}" for ratio in (self.ratio, self.ratio_high, self.ratio_low))
        return f"{b} is not measurably faster or slower than {a}: {speed} times as fast ({low}–{high})"


def relative_time(ratio: float, other: str, interval: tuple[float, float] | None = None) -> str:
    """A latency over that of ``other``, as people say it.

    Args:
        interval: Lower and upper end of the ratio, to be said in brackets.
    Example:
        >>> relative_time(1.161, "conv", (1.15, 1.17)), relative_time(0.625, "conv")
        ('16 % slower than conv (15–17 %)', '1.60 times as fast as conv')
    """
    ends = interval or ()
    if 1 < ratio < 2:
        digits = 0 if ratio >= 1.1 else 1
        value, *ends_said = (f"{100 * (r - 1):.{digits}f}" for r in (ratio, *ends))
        text, unit = f"{value} % slower than {other}", " %"
    else:
        fast = ratio <= 1
        value, *ends_said = (f"{1 / r if fast else r:.2f}" for r in (ratio, *(reversed(ends) if fast else ends)))
        text, unit = f"{value} times as {'fast' if fast else 'slow'} as {other}", ""
    return f"{text} ({'–'.join(ends_said)}{unit})" if interval else text


def gpu_times_ms(call: Callable[[], object], calls: int) -> list[float]:
    """Milliseconds of each call on the current GPU, by events there: its own clock, not the way to the CPU and back.

    The calls follow each other at once; where a call waits for the CPU to launch its kernels, that is in its time.
    """
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    for begin, end in marks:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [float(begin.elapsed_time(end)) for begin, end in marks]


def comparison_from(row: Mapping[str, Any]) -> Comparison:
    """A comparison that was written as JSON."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Comparison(**values)


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
        precisions=conditions.precisions,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    return float(low), float(high)
