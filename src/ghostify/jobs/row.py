"""A row of a run's table: a network's file, scored on test images and timed against the original's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from scipy.stats import binomtest
from torch import Tensor

from ghostify.data.images import ImageData, count_images
from ghostify.data.sample import draw
from ghostify.inference.compare import compare
from ghostify.inference.engines import FileRunner
from ghostify.inference.file_network import FileNetwork
from ghostify.inference.quantize import size_mb
from ghostify.jobs.evaluate import logits_of
from ghostify.measure.latency import Comparison
from ghostify.progress import Progress

Kind = Literal["original", "ours", "rival"]
# Each comparison has processes of its own: where a process has its weights in memory tells in its time, too.
COMPARISONS, BLOCKS, BLOCK_MS = 3, 20, 20.0
CALLS = 100  # that say how long the original takes
AT_ONCE = 50  # images that are scored


@dataclass(frozen=True)
class Row:
    """A network in one precision.

    Args:
        name: Its name in a table.
        kind: The original, a network that this run makes, or a rival.
        precision: "fp32" or "int8".
        top1, top1_low, top1_high: Share of right first answers on the test images, 0..1, and its 95 % Wilson interval.
        agreement: Share of the original's own first answers, 0..1.
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
    top1: float
    top1_low: float
    top1_high: float
    agreement: float
    speedup: float
    speedup_low: float
    speedup_high: float
    ms: float
    size_mb: float
    macs: int
    params: int
    file: str


@dataclass(frozen=True)
class Answers:
    """First answers of a network for all test images, and the labels."""

    first: Tensor
    labels: Tensor

    @property
    def top1(self) -> dict[str, Any]:
        """Share of right ones, 0..1, and its 95 % Wilson interval."""
        right = int((self.first == self.labels).sum())
        ends = binomtest(right, len(self.labels)).proportion_ci(0.95, method="wilson")
        share = right / len(self.labels)
        return {"top1": share, "top1_low": float(ends.low), "top1_high": float(ends.high)}


@torch.no_grad()
def answers_of(file: Path, engine: str, data: ImageData, workers: int, progress: Progress | None, name: str) -> Answers:
    """The first answers of a file in its engine, with as many threads as PyTorch has."""
    network, images = FileNetwork(file, engine=engine), count_images(data.test)
    first, labels = [], []
    for x, right in draw(data.test, data, images, batch_size=AT_ONCE, workers=workers):
        first.append(logits_of(network(x)).argmax(1))
        labels.append(right)
        if progress:
            progress("test images", name, min(images, len(first) * AT_ONCE), images)
    return Answers(torch.cat(first), torch.cat(labels))


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
    agreement = float((answers.first == original.first).float().mean())
    place = file.relative_to(out).as_posix()
    return Row(**answers.top1, agreement=agreement, **times, size_mb=size_mb(file), file=place, **rest)
