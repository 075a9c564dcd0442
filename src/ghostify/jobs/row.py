"""A row of a run's table: a network's file, scored on test images and timed against the original's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from torch import Tensor

from ghostify.inference.compare import compare
from ghostify.inference.engines import FileRunner
from ghostify.inference.quantize import size_mb
from ghostify.jobs.images_of_run import Answers
from ghostify.measure.latency import Comparison

Kind = Literal["original", "ours", "rival"]
# Each comparison has processes of its own: where a process has its weights in memory tells in its time, too.
COMPARISONS, BLOCKS, BLOCK_MS = 3, 20, 20.0
CALLS = 100  # that say how long the original takes


@dataclass(frozen=True)
class Row:
    """A network in one precision.

    Args:
        name: Its name in a table.
        kind: The original, a network that this run makes, or a rival.
        precision: "fp32" or "int8".
        score, score_low, score_high: Share of what is right on the test images, 0..1, such as top-1, and its 95 %
            interval.
        agreement: Share of the original's own answers, 0..1.
        speedup, speedup_low, speedup_high: Times as fast as the original in float32, the median of some comparisons,
            and the ends of their 95 % intervals.
        ms: Milliseconds for one image.
        size_mb: Megabytes (10⁶ bytes) of the file.
        macs: Multiply-adds for one image.
        params: Number of weights.
        file: The file, by its path in the run's folder.
    """

    name: str
    kind: Kind
    precision: str
    score: float
    score_low: float
    score_high: float
    agreement: float
    speedup: float
    speedup_low: float
    speedup_high: float
    ms: float
    size_mb: float
    macs: int
    params: int
    file: str


def timed(original: Path, file: Path, example: Tensor, engine: str, threads: int) -> dict[str, float]:
    """How many times as fast a file is as the original's in float32, and its milliseconds; the original is once."""
    if file == original:
        with FileRunner(file, engine, example, threads=threads) as runner:
            return {"speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0, "ms": median(runner.times_ms(CALLS))}
    found: Sequence[Comparison] = [
        compare(original, file, example, engine=engine, threads=threads, blocks=BLOCKS, block_ms=BLOCK_MS)
        for _ in range(COMPARISONS)
    ]
    return {
        "speedup": 1 / median(one.ratio for one in found),
        "speedup_low": 1 / max(one.ratio_high for one in found),
        "speedup_high": 1 / min(one.ratio_low for one in found),
        "ms": median(one.b_ms for one in found),
    }


def row_of(out: Path, file: Path, answers: Answers, original: Answers, times: dict[str, Any], **rest: Any) -> Row:
    """The row of a file in a run's folder."""
    same, place = answers.same_as(original), file.relative_to(out).as_posix()
    return Row(**asdict(answers.scored), agreement=same, **times, size_mb=size_mb(file), file=place, **rest)
