"""How often a network is right."""

from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ghostify.data.augment import normalise
from ghostify.data.images import Batch, ImageData, MemoryImages, count_images, join_batches
from ghostify.errors import InputError, first_sentence
from ghostify.modes import evaluating


@dataclass(frozen=True)
class Score:
    """Right answers of a network.

    Args:
        counts: For each class: how many of its images were asked, how many first guesses were right, and for how many
            the right class was among the first five guesses.
    """

    counts: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> int:
        return sum(images for images, _, _ in self.counts)

    @property
    def right(self) -> int:
        """How many first guesses were right."""
        return sum(right for _, right, _ in self.counts)

    @property
    def right_in_5(self) -> int:
        """How many had the right class among the first five guesses."""
        return sum(in_5 for _, _, in_5 in self.counts)

    @property
    def top1(self) -> float:
        """Share of right first guesses, 0..1."""
        return self.right / self.images

    @property
    def top5(self) -> float | None:
        """Share with the right class among the first five, 0..1; None of five classes or fewer, where it is all."""
        return self.right_in_5 / self.images if len(self.counts) > 5 else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of ``top1``, 0..1 (Wilson 1927).

        Example:
            >>> [round(end, 4) for end in Score(((100, 90, 100),)).interval]
            [0.8256, 0.9448]
        """
        low, high = binomtest(self.right, self.images).proportion_ci(0.95, method="wilson")
        return float(low), float(high)

    def numbers(self) -> dict[str, Any]:
        """All but the counts, as JSON values."""
        low, high = self.interval
        return {"top1": self.top1, "top1_low": low, "top1_high": high, "top5": self.top5, "test_images": self.images}


def evaluate(
    model: nn.Module,
    dataset: Dataset[Batch],
    data: ImageData,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    batch_size: int = 250,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Score:
    """Ask a network for the class of every image once.

    Args:
        dataset: One of the data set's parts: ``data.test`` or ``data.val``.
        data: Gives the normalisation.
        precision: "fp32", or "bf16" for autocast.
        share: Which part of how many of the images to ask about; the parts of several processes are added up.
    """
    part, parts = share
    loader = DataLoader(
        Subset(dataset, range(part, count_images(dataset), parts)) if parts > 1 else dataset,
        batch_size,
        collate_fn=join_batches,
        num_workers=0 if isinstance(dataset, MemoryImages) else workers,
    )
    counts = torch.zeros(len(data.classes), 3, dtype=torch.long)
    with evaluating(model), torch.inference_mode():
        for pixels, labels in loader:
            x = normalise(pixels.to(device), data.mean, data.std)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = logits_of(model(x))
            hits = (logits.topk(min(5, logits.shape[1])).indices == labels.to(device)[:, None]).cpu()
            added = torch.stack([torch.ones(len(labels), dtype=torch.bool), hits[:, 0], hits.any(1)], 1)
            counts.index_add_(0, labels, added.long())
    return Score(tuple(map(tuple, counts.tolist())))


def check_fit(model: nn.Module, data: ImageData) -> int:
    """Refuse a network that cannot take the images or has too few outputs for the classes; how many it has."""
    shape = data.shape
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with evaluating(model), torch.inference_mode():
            outputs = logits_of(model(torch.zeros(1, *shape, device=device)))
    except Exception as error:  # whatever the network's own code raises
        size = "×".join(map(str, shape))
        raise InputError(
            f"{type(model).__name__} cannot take the images of {data.name}, {size}: {first_sentence(error)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"{type(model).__name__} returns a {type(outputs).__name__}: expected a tensor [batch, {len(data.classes)}]"
        )
    if outputs.ndim != 2 or outputs.shape[1] < len(data.classes):
        raise InputError(
            f"{type(model).__name__} returns {list(outputs.shape)}: "
            f"{data.name} has {len(data.classes)} classes and needs [batch, {len(data.classes)}]"
        )
    return outputs.shape[1]


def logits_of(output: Any) -> Tensor:
    """The main logits of a network that may return others beside them in training (Inception, GoogLeNet)."""
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits
