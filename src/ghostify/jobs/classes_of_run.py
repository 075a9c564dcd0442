"""A run whose network names what is in an image."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.utils.data import Subset

from ghostify.data.images import ImageData, count_images
from ghostify.data.sample import draw
from ghostify.fitting.refine import apart
from ghostify.jobs.evaluate import check_fit, evaluate, logits_of
from ghostify.jobs.images_of_run import Answers, Data, Judged, Scored
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher, train
from ghostify.progress import Progress

AT_ONCE = 50  # images that are scored


@dataclass(frozen=True)
class FirstAnswers(Answers):
    """First answers for all test images, and the labels."""

    first: Tensor
    labels: Tensor

    @property
    def scored(self) -> Scored:
        """Share of right ones, and its Wilson interval."""
        right = int((self.first == self.labels).sum())
        ends = binomtest(right, len(self.labels)).proportion_ci(0.95, method="wilson")
        return Scored(right / len(self.labels), float(ends.low), float(ends.high))

    def same_as(self, other: "FirstAnswers") -> float:
        return float((self.first == other.first).float().mean())


@dataclass(frozen=True)
class ClassesOfRun(Data):
    """Images with a class."""

    measure = "top-1"
    batch = 128

    images: ImageData

    @property
    def title_of_first(self) -> str:
        return f"of class “{self.images.classes[int(self.first[1][0])]}”"

    def with_train(self, chosen: list[int] | None) -> Self:
        train = self.images.train if chosen is None else Subset(self.images.train, chosen)
        return replace(self, images=replace(self.images, train=train, val=None))

    def check(self, model: nn.Module) -> None:
        check_fit(model, self.images)

    def learn(
        self, model: nn.Module, recipe: Recipe, teacher: Teacher | None, options: RunOptions, progress: Progress | None
    ) -> None:
        train(model, self.images, recipe, teacher=teacher, options=options, progress=progress)

    def answers(self, network: nn.Module, workers: int, progress: Progress | None, name: str) -> FirstAnswers:
        images, first, labels = count_images(self.images.test), list[Tensor](), list[Tensor]()
        for x, right in draw(self.images.test, self.images, images, batch_size=AT_ONCE, workers=workers):
            first.append(logits_of(network(x)).argmax(1))
            labels.append(right)
            if progress:
                progress("test images", name, min(images, len(first) * AT_ONCE), images)
        return FirstAnswers(torch.cat(first), torch.cat(labels))

    def held_out_score(self, model: nn.Module, device: str, workers: int) -> float:
        assert self.images.val is not None
        return evaluate(model, self.images.val, self.images, device=device, workers=workers).top1

    def judge(self, model: nn.Module, original: nn.Module, images: int, device: str, workers: int) -> Judged:
        assert self.images.val is not None
        right, mine, theirs = 0, list[Tensor](), list[Tensor]()
        for x, labels in draw(self.images.val, self.images, images, workers=workers):
            x = x.to(device)
            mine.append(logits_of(model(x)).cpu())
            theirs.append(logits_of(original(x)).cpu())
            right += int((mine[-1].argmax(1) == labels).sum())
        outputs = torch.cat(mine)
        return Judged(float(apart(outputs, torch.cat(theirs))), right / len(outputs))
