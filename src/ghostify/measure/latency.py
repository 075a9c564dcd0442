"""Latency of one network over another, side by side."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from scipy.stats import quantile_test
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.modes import evaluating

# The timer's module warns of a CUDA toolkit without a GPU, as if it were to compile something.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer  # noqa: E402  # after its warning is silenced

ENGINES = ("eager",)


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
    blocks: int
    calls_per_block: tuple[int, int]
    engine: str
    threads: int
    device: str
    dtype: str

    @property
    def different(self) -> bool:
        """Whether the interval leaves out 1."""
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


@torch.no_grad()
def compare(
    a: nn.Module,
    b: nn.Module,
    example: Tensor,
    *,
    engine: str = "eager",
    threads: int = 1,
    blocks: int = 30,
    block_ms: float = 60.0,
) -> Comparison:
    """Measure the latency of ``b`` over that of ``a`` on the same input, in eval mode.

    Both warm up; then blocks of calls alternate, each pair in the other order than the last, so that a
    machine that slows down slows both. Timing, thread count and device synchronisation are
    ``torch.utils.benchmark``'s.

    Args:
        example: One batch ``[batch, channels, height, width]`` on the networks' device.
        engine: "eager", PyTorch as it is.
        threads: CPU threads of both.
        blocks: Blocks of each network, at least 6: fewer give no 95 % interval.
        block_ms: Length aimed at for a block, milliseconds.
    Raises:
        InputError: If the engine is unknown, or blocks or threads are too few.
    Example:
        >>> same = nn.Linear(8, 8)
        >>> compare(same, same, torch.ones(1, 8), blocks=6, block_ms=1).a_ms > 0
        True
    """
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}: expected one of {', '.join(ENGINES)}")
    if threads < 1 or blocks < 6:
        raise InputError(f"threads is {threads} and blocks {blocks}: expected at least 1 and 6")
    with evaluating(a, b), torch.inference_mode():
        timers = [Timer("model(x)", globals={"model": model, "x": example}, num_threads=threads) for model in (a, b)]
        for timer in timers:  # allocation, kernel choice and caches settle in the first calls
            timer.timeit(3)
        calls = [max(1, round(block_ms / (timer.timeit(3).mean * 1e3))) for timer in timers]
        times_ms: tuple[list[float], list[float]] = ([], [])
        for block in range(blocks):
            for side in (0, 1) if block % 2 == 0 else (1, 0):
                times_ms[side].append(timers[side].timeit(calls[side]).mean * 1e3)
    return summarise(
        *times_ms,
        calls_per_block=(calls[0], calls[1]),
        engine=engine,
        threads=threads,
        device=str(example.device),
        dtype=str(example.dtype).removeprefix("torch."),
    )


def summarise(
    a_ms: Sequence[float],
    b_ms: Sequence[float],
    *,
    calls_per_block: tuple[int, int] = (1, 1),
    engine: str = "eager",
    threads: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
) -> Comparison:
    """Median and 95 % interval of the ratio from paired block times.

    The interval is the exact one of a median from order statistics; it assumes nothing of the
    distribution but that blocks are independent.

    Args:
        a_ms: Milliseconds per call of network a, block by block.
        b_ms: The same of network b, measured next to it.
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
        blocks=len(ratios),
        calls_per_block=calls_per_block,
        engine=engine,
        threads=threads,
        device=device,
        dtype=dtype,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    return float(low), float(high)
