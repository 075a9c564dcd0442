"""How far a file's outputs are from its network's, and how often both are right."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, spelled
from ghostify.inference.engines import FileRunner
from ghostify.modes import evaluating
from ghostify.structure.surgery import tensors_in

Checked = Tensor | tuple[Tensor, ...] | list[Tensor]


class GivesOutputs(Protocol):
    """A file in its engine."""

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The outputs for a batch, in the network's order."""


@dataclass
class Parity:
    """A file beside its network, on the images so far.

    Args:
        largest: The largest difference of each output.
        scale: The largest of each output of the network.
        sums: Four numbers by output: how many values, their sum, that of their squares, that of squared differences.
        worst: The batch with the largest difference of all.
    """

    images: int = 0
    same: int = 0
    labelled: int = 0
    right_before: int = 0
    right_after: int = 0
    classifies: bool = True
    largest: dict[int, float] = field(default_factory=dict)
    scale: dict[int, float] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)
    worst: Tensor | None = None

    @property
    def difference(self) -> float:
        """The largest difference of an output, over the largest output of its kind."""
        return max(self.largest[place] / (self.scale[place] or 1) for place in self.largest)

    @property
    def output_error(self) -> float:
        """Mean squared difference over the variance, the mean over outputs."""
        errors = []
        for count, total, squares, apart in (row.tolist() for row in self.sums.values()):
            variance = squares / count - (total / count) ** 2
            errors.append(apart / count / max(variance, 1e-30) if apart else 0.0)
        return sum(errors) / len(errors)

    @property
    def agreement(self) -> float | None:
        """Share of images with the same first answer, 0..1; None where outputs are not ``[batch, classes]``."""
        return self.same / self.images if self.classifies else None

    @property
    def top1(self) -> tuple[float | None, float | None]:
        """Share of right first answers of the network and of the file; None where not all images had labels."""
        if not self.classifies or self.labelled != self.images:
            return None, None
        return self.right_before / self.images, self.right_after / self.images

    def add(self, x: Tensor, before: Sequence[Tensor], after: Sequence[Tensor], labels: Tensor | None) -> None:
        """Take the outputs of the network and of the file for a batch into account."""
        if [b.shape for b in before] != [a.shape for a in after]:
            raise InputError(f"the file returns {[list(a.shape) for a in after]}, not the network's shapes")
        for place, (b, a) in enumerate(zip(before, after, strict=True)):
            # In double, as there may be truth values. Of a NaN on either side, nothing can be said: it counts as a
            # difference.
            b, a = b.double(), a.double()
            apart = (a - b).abs().nan_to_num(torch.inf)
            if self.worst is None or float(apart.max()) > self.largest.get(place, 0.0):
                self.worst = x
            self.largest[place] = max(self.largest.get(place, 0.0), float(apart.max()))
            self.scale[place] = max(self.scale.get(place, 0.0), float(b.abs().max()))
            count = torch.tensor(float(b.numel()), dtype=torch.float64)
            sums = torch.stack([count, b.sum(), b.square().sum(), apart.square().sum()])
            self.sums[place] = self.sums.get(place, 0) + sums
        self.images += len(x)
        self.classifies &= names_classes(before)
        if self.classifies:
            first_before, first_after = before[0].argmax(1), after[0].argmax(1)
            self.same += int((first_before == first_after).sum())
            if labels is not None:
                self.labelled += len(labels)
                self.right_before += int((first_before == labels).sum())
                self.right_after += int((first_after == labels).sum())


@torch.no_grad()
def parity(
    model: nn.Module,
    files: Sequence[GivesOutputs],
    check: Iterable[Checked],
    dtype: torch.dtype | None = None,
) -> list[Parity]:
    """Hold files against the network on the same images.

    Args:
        dtype: Data type that all take their inputs in; None: that of the batches.
    Raises:
        InputError: If there are no images, or a file's outputs have other shapes.
    """
    found = [Parity() for _ in files]
    device = device_of(model)
    with evaluating(model), whole_float32():
        for item in check:
            x, labels = images_and_labels(item, "check")
            x = x.to(dtype)
            before = [tensor.cpu() for tensor in tensors_in(model(x.to(device)))]
            for file, so_far in zip(files, found, strict=True):
                so_far.add(x, before, file.outputs(x), labels)
    if not all(each.images for each in found):
        raise InputError(f"{spelled('check')}: expected at least one batch")
    return found


def names_classes(outputs: Sequence[Tensor]) -> bool:
    """True where a network answers with one of several classes: one output ``[batch, classes]``."""
    return len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] > 1


def images_and_labels(item: Any, parameter: str) -> tuple[Tensor, Tensor | None]:
    """A batch as a network gets it, and its labels where it has any.

    Args:
        parameter: The parameter that the batches were given as, for messages.
    Raises:
        InputError: If it is neither a batch nor a pair of a batch and labels ``[batch]``.
    """
    x, *rest = item if isinstance(item, tuple | list) and item else (item,)
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
        raise InputError(
            f"{spelled(parameter)}: expected batches [batch, channels, height, width], or pairs of these and labels "
            f"[batch], not {described(item)}"
        )
    if not rest:
        return x, None
    labels = rest[0]
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() and bool((labels != labels.round()).any()))
    if not whole or labels.shape != x.shape[:1]:
        raise InputError(
            f"{spelled(parameter)}: expected the number of a class for each of {len(x)} images, [{len(x)}], as labels, "
            f"not {described(labels)}"
        )
    return x, labels.detach().cpu().long()


def described(value: Any) -> str:
    """A value's kind, and a tensor's shape."""
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def file_parity(model: nn.Module, file: Path, engine: str, check: Iterable[Checked], example: Tensor) -> Parity:
    """One file in its engine beside the network, both with inputs of the example's data type."""
    with FileRunner(file, engine, threads=torch.get_num_threads()) as runner:
        return parity(model, [runner], check, example.dtype)[0]


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's weights; the CPU without any."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


@contextmanager
def whole_float32() -> Iterator[None]:
    """Keep a GPU from rounding float32 to TF32's ten bits in convolutions and products, more than a file may differ."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # a property of what stands in the module's place
    kinds = (conv, torch.backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
