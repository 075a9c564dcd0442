"""A network in the precisions of OpenVINO: its file, scored, and its time over the original's in float32."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from ghostify import FileNetwork, compare, export
from ghostify.fitting.calibration import first_images
from ghostify.inference.engines import Precision
from ghostify.measure.latency import Comparison

OTHERS: tuple[Precision, ...] = ("int8", "bf16")  # beside fp32
RATIO = ("time_ratio", "time_ratio_low", "time_ratio_high")
RANGES_FROM = 300  # images


def columns_of(precision: Precision, columns: Sequence[str]) -> list[str]:
    """Names of columns for a precision; those of fp32 have none of it in them."""
    return [column if precision == "fp32" else f"{precision}_{column}" for column in columns]


@contextmanager
def in_openvino(model: nn.Module, precision: Precision, images: Sequence[Tensor]) -> Iterator[FileNetwork]:
    """The network's file in a precision, as a module.

    Args:
        images: Batches of training images; the first give the ranges for int8.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        in_int8 = first_images(images, RANGES_FROM).split(50) if precision == "int8" else None
        export(model, path, images[0][:1], format="openvino", int8=in_int8)
        yield FileNetwork(path, precision="bf16" if precision == "bf16" else "fp32")


def measured_ratio(
    before: nn.Module, after: nn.Module, example: Tensor, precision: Precision, *, threads: int, comparisons: int
) -> dict[str, str]:
    """The latency of a network in a precision over the original's in float32, both deployed.

    The median of several comparisons, each in processes of its own, from the lowest end of their 95 % intervals to the
    highest: where a process has its weights in memory tells in its time, too, which the interval of one does not know.
    """
    timed = compared(before, after, example, precision, threads=threads, comparisons=comparisons)
    return dict(zip(columns_of(precision, RATIO), (f"{value:.4f}" for value in median_of(timed)), strict=True))


def compared(
    before: nn.Module, after: nn.Module, example: Tensor, precision: Precision, *, threads: int, comparisons: int
) -> list[Comparison]:
    """Several comparisons of a network in a precision with the original in float32, each in processes of its own."""
    return [
        compare(before, after, example, engine="openvino", threads=threads, precision=("fp32", precision))
        for _ in range(comparisons)
    ]


def median_of(timed: Sequence[Comparison]) -> tuple[float, float, float]:
    """The median of the ratios, the lowest end of their intervals, and the highest."""
    return (
        statistics.median(one.ratio for one in timed),
        min(one.ratio_low for one in timed),
        max(one.ratio_high for one in timed),
    )
