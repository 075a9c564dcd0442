"""A run whose network names the class of each pixel."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ghostify.data.masks import MaskData
from ghostify.data.sample import draw
from ghostify.jobs.images_of_run import Answers, Data, Judged, Scored
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.segment import (
    check_maps,
    evaluate_segmenter,
    maps_in,
    pixels_by_class,
    score_of,
    train_segmenter,
)
from ghostify.jobs.train import Teacher
from ghostify.progress import Progress

AT_ONCE = 8  # images that are scored
DRAWS, SEED = 1000, 0  # of the images, for an interval


@dataclass(frozen=True)
class PixelAnswers(Answers):
    """The class of each pixel of all test images.

    Args:
        found: uint8 ``[images, height, width]``.
        counts: Pixels of each image by their class in the mask and in ``found``: ``[images, classes, classes]``.
        data: The images.
    """

    found: Tensor
    counts: NDArray[np.int64]
    data: MaskData

    @property
    def scored(self) -> Scored:
        """Mean intersection over union, and its interval by draws of the images (Efron 1979)."""
        chosen = np.random.default_rng(SEED).integers(len(self.counts), size=(DRAWS, len(self.counts)))
        means = [self.mean_iou(self.counts[draw].sum(0)) for draw in chosen]
        low, high = np.quantile([mean for mean in means if mean is not None], (0.025, 0.975))
        return Scored(score_of(self.counts.sum(0), self.data, len(self.counts)).mean_iou, float(low), float(high))

    def mean_iou(self, counts: NDArray[np.int64]) -> float | None:
        """The score of these pixels; None where none counts."""
        return score_of(counts, self.data, len(self.counts)).mean_iou if counts.any() else None

    def same_as(self, other: "PixelAnswers") -> float:
        return float((self.found == other.found).float().mean())


@dataclass(frozen=True)
class MasksOfRun(Data):
    """Images with a class for each pixel."""

    measure = "mean IoU"
    batch = 16

    images: MaskData

    @property
    def title_of_first(self) -> str:
        return f"of {self.images.name}"

    def checked(self, images: int, workers: int) -> Iterator[Tensor]:
        return (x for x, _ in super().checked(images, workers))

    def with_train(self, chosen: list[int] | None) -> Self:
        train = self.images.train if chosen is None else self.images.train.only(chosen, self.images.train.change)
        return replace(self, images=replace(self.images, train=train, val=None))

    def check(self, model: nn.Module) -> None:
        check_maps(model, self.images)

    def learn(
        self, model: nn.Module, recipe: Recipe, teacher: Teacher | None, options: RunOptions, progress: Progress | None
    ) -> None:
        train_segmenter(model, self.images, recipe, teacher=teacher, options=options, progress=progress)

    def answers(self, network: nn.Module, workers: int, progress: Progress | None, name: str) -> PixelAnswers:
        images, found, counts = len(self.images.test), list[Tensor](), list[NDArray[np.int64]]()
        for x, masks in draw(self.images.test, self.images, images, batch_size=AT_ONCE, workers=workers):
            answered = self.classes_in(network(x), x)
            found.append(answered.to(torch.uint8))
            counts += [pixels_by_class(*pair, self.classes) for pair in zip(masks, answered, strict=True)]
            if progress:
                progress("test images", name, len(counts), images)
        return PixelAnswers(torch.cat(found), np.stack(counts), self.images)

    def classes_in(self, output: object, x: Tensor) -> Tensor:
        """The class of each pixel; a network may know more classes than there are."""
        return maps_in(output, x)[0][:, : self.classes].argmax(1)

    @property
    def classes(self) -> int:
        return len(self.images.classes)

    def held_out_score(self, model: nn.Module, device: str, workers: int) -> float:
        assert self.images.val is not None
        return evaluate_segmenter(model, self.images.val, self.images, device=device, workers=workers).mean_iou

    def judge(self, model: nn.Module, original: nn.Module, images: int, device: str, workers: int) -> Judged:
        """The outputs are compared batch by batch: those of all images would fill the memory."""
        assert self.images.val is not None
        sums, counts = torch.zeros(4, dtype=torch.float64), np.zeros((self.classes,) * 2, np.int64)
        for x, masks in draw(self.images.val, self.images, images, batch_size=AT_ONCE, workers=workers):
            x = x.to(device)
            mine, theirs = (maps_in(network(x), x)[0].double().cpu() for network in (model, original))
            sums += torch.stack(
                [
                    torch.tensor(float(theirs.numel())),
                    theirs.sum(),
                    theirs.square().sum(),
                    (mine - theirs).square().sum(),
                ]
            )
            counts += pixels_by_class(masks, mine[:, : self.classes].argmax(1), self.classes)
        number, total, squares, apart = sums.tolist()
        variance = max(squares / number - (total / number) ** 2, 1e-12)
        return Judged(apart / number / variance, score_of(counts, self.images, min(images, self.sizes[1])).mean_iou)
