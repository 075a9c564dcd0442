"""int8 by NNCF: a file's convolutions and products in eight bits, without training."""

import atexit
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghostify.errors import InputError, spelled
from ghostify.inference.parity import described, images_and_labels
from ghostify.inference.process import Process
from ghostify.measure.environment import sums_int8_exactly
from ghostify.needed import refuse_missing

MOST = 300  # images whose ranges are taken; NNCF's own number
Batch = Tensor | tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Int8:
    """How a network is quantised.

    Args:
        images: Batches of inputs, as a ``DataLoader`` gives them; labels beside them are not looked at. The ranges of
            all maps are taken from the first 300 images.
        max_accuracy_drop: Points of top-1 that may be lost, 0 to below 100: layers are left in float32 until no more
            is; None: all are quantised.
        judges: Pairs of batches and labels by which that is judged, no test images; without labels right is what the
            network itself answers. None: ``images``, without labels.
    """

    images: Iterable[Batch]
    max_accuracy_drop: float | None = None
    judges: Iterable[Batch] | None = None

    def __post_init__(self) -> None:
        drop = self.max_accuracy_drop
        if drop is not None and not (isinstance(drop, int | float) and 0 <= drop < 100):
            raise InputError(
                f"{spelled('max_accuracy_drop')} is {drop!r}: expected points of top-1 from 0 to below 100"
            )
        for name, batches in (("int8", self.images), ("judges", self.judges)):
            if isinstance(batches, bool | Tensor) or not isinstance(batches, Iterable | None):
                raise InputError(
                    f"{spelled(name)}: expected several batches of images, such as a list of them, not "
                    f"{described(batches)}"
                )
        if self.judges is not None and drop is None:
            raise InputError(f"images judge an accuracy drop: expected {spelled('max_accuracy_drop')} beside them")


@dataclass(frozen=True)
class Judges:
    """Images that judge an accuracy.

    Args:
        inputs: ``[images, channels, height, width]``.
        labels: ``[images]``.
        most_lost: Share of right answers that may be lost, 0..1.
    """

    inputs: Tensor
    labels: Tensor
    most_lost: float


@dataclass(frozen=True)
class Quantised:
    """A file that was quantised.

    Args:
        layers: How many layers have weights.
        in_fp32: Names of those that were left in float32.
        overflow_fix: True where weights use half of their range, as on processors without VNNI.
        images: Images whose ranges were taken.
        lost: Share of right answers that was lost by the images that judge that; None without them.
    """

    layers: int
    in_fp32: tuple[str, ...]
    overflow_fix: bool
    images: int
    lost: float | None


class AlreadyQuantisedError(InputError):
    """A file is in int8 as it is."""


def quantizer() -> Process:
    """The process that quantises: importing NNCF takes seconds, so that it is kept while it answers."""
    if not kept_quantizer().answers:
        kept_quantizer.cache_clear()
    return kept_quantizer()


@cache
def kept_quantizer() -> Process:
    started = Process("nncf", "quantise")
    atexit.register(started.close)
    return started


def images_for_ranges(batches: Iterable[Batch], example: Tensor, most: int = MOST) -> Tensor:
    """The first inputs, as one batch in the example's data type.

    Raises:
        InputError: If there are none, they are of another shape than the example, or not finite.
    """
    kept: list[Tensor] = []
    for item in batches:
        # Labels are not looked at.
        x, _ = images_and_labels(item[:1] if isinstance(item, tuple | list) else item, "int8")
        if x.shape[1:] != example.shape[1:]:
            shapes = [tuple(batch.shape[1:]) for batch in (x, example)]
            raise InputError(f"{spelled('int8')}: images of {shapes[0]}: expected {shapes[1]}, as the example has")
        kept.append(x.detach().cpu().to(example.dtype))
        if sum(map(len, kept)) >= most:
            break
    if not kept:
        raise InputError(f"{spelled('int8')}: expected images from which ranges are taken")
    images = torch.cat(kept)[:most]
    if not bool(images.isfinite().all()):
        raise InputError(f"{spelled('int8')}: the images hold NaN or infinite numbers: expected finite ones")
    return images


def quantise_file(path: Path, out: Path, *, engine: str, images: Tensor, judges: Judges | None = None) -> Quantised:
    """Write a file's network in int8.

    Args:
        path: An ONNX or OpenVINO file.
        out: ONNX for "onnxruntime", OpenVINO's ``.xml`` for "openvino".
        images: Inputs ``[images, channels, height, width]`` from which the ranges of maps are taken.
        judges: Images that judge what may be lost; None: everything that can be is quantised.
    Raises:
        AlreadyQuantisedError: If it is in int8.
        InputError: If NNCF is missing or cannot quantise it.
    """
    refuse_missing("nncf", needed_by="int8")
    process = quantizer()
    overflow_fix = not sums_int8_exactly()
    with process.lock:
        asked: dict[str, Any] = {"judges": None, "max_drop": None}
        if judges is not None:
            stored = [process.stored(name, x) for name, x in (("judging", judges.inputs), ("labels", judges.labels))]
            asked = {"judges": stored, "max_drop": judges.most_lost}
        found: dict[str, Any] = process.ask(
            "quantize",
            engine=engine,
            path=str(path.resolve()),
            images=process.stored("images", images),
            out=str(out.resolve()),
            overflow_fix=overflow_fix,
            **asked,
        )
    if found["already"]:
        raise AlreadyQuantisedError(f"{path.name} is in int8 as it is")
    layers: dict[str, bool] = {}
    for operator, quantised in found["layers"].items():
        layers[layer_of(operator)] = layers.get(layer_of(operator), True) and quantised
    if not layers:
        raise InputError("the network has no convolution and no product with weights that could be in int8")
    if judges is not None and found["lost"] > judges.most_lost + 1e-9:
        raise InputError(
            f"with no choice of layers in int8 it keeps to a drop of {100 * judges.most_lost:g} points: "
            f"{100 * found['lost']:.2f} are lost by the images that judge it"
        )
    left = [name for name, quantised in layers.items() if not quantised]
    return Quantised(len(layers), tuple(left), overflow_fix, len(images), found["lost"])


def layer_of(operator: str) -> str:
    """The layer that ``write_onnx`` named an operator after; the operator's own name in other files."""
    return operator.partition("/")[0].removeprefix("network.")


def size_mb(path: Path) -> float:
    """Megabytes (10⁶ bytes) of a file and of the weights beside it."""
    beside: Sequence[Path] = (path, path.with_suffix(".bin"), path.with_name(f"{path.name}.data"))
    return sum(file.stat().st_size for file in dict.fromkeys(beside) if file.exists()) / 1e6
