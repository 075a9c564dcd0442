"""The images of a run, and how answers to them are judged, whatever the task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ghostify.data.augment import normalise
from ghostify.data.images import count_images
from ghostify.data.sample import draw, draw_inputs
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher
from ghostify.progress import Progress

HELD_OUT = 0.1  # of the training images, to judge by
ABOVE_CHANCE = 0.2  # of the way to all that is right, a trained network is above chance


@dataclass(frozen=True)
class Scored:
    """A share of what is right, 0..1, and its 95 % interval."""

    score: float
    score_low: float
    score_high: float


class Answers(ABC):
    """The answers of a network to all test images."""

    @property
    @abstractmethod
    def scored(self) -> Scored:
        """How good they are."""

    @abstractmethod
    def same_as(self, other: Any) -> float:
        """Share of them that are those of another network, 0..1."""


@dataclass(frozen=True)
class Judged:
    """A network on held-out images.

    Args:
        error: Mean squared difference of its outputs from the original's, over their variance.
        score: Share of what is right, 0..1.
    """

    error: float
    score: float

    def better_than(self, other: "Judged") -> bool:
        """More that is right, or as much with a smaller error."""
        return (self.score, -self.error) > (other.score, -other.error)


@dataclass(frozen=True)
class Data(ABC):
    """The images of a run. A task is a subclass, in a file of its own.

    Args:
        images: The data set, with images held out of train.
        labelled: Right is what labels say; else what the original answers.
        preprocessing: How images become inputs, as far as that is known.
    """

    images: Any
    labelled: bool = True
    preprocessing: dict[str, Any] = field(default_factory=dict)

    measure: ClassVar[str]  # name of the score
    batch: ClassVar[int]  # images of a step of learning

    @property
    def unit(self) -> str:
        return self.measure if self.labelled else "of the original's answers"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many images are to learn from, are held out, and are to judge by."""
        train, held_out, test = (
            0 if part is None else count_images(part) for part in (self.images.train, self.images.val, self.images.test)
        )
        return train, held_out, test

    @property
    def shape(self) -> tuple[int, ...]:
        """One image as the network gets it: channels, height, width."""
        return tuple(self.first[0].shape[1:])

    @property
    def first(self) -> tuple[Tensor, Any]:
        """The first test image as it was decoded, ``[1, channels, height, width]``, and what is right about it."""
        return self.images.test[0]

    @property
    @abstractmethod
    def title_of_first(self) -> str:
        """The words for the first test image on a page, such as its class."""

    @property
    def first_input(self) -> Tensor:
        """The first test image as the network gets it."""
        return normalise(self.first[0], self.images.mean, self.images.std)

    def inputs(self, images: int, seed: int, workers: int, device: str = "cpu") -> list[Any]:
        """Batches of training images as ``plan`` and ``convert`` take them."""
        return [batch.to(device) for batch in draw_inputs(self.images, images, seed, workers=workers)]

    def ranges(self, images: int, seed: int, workers: int) -> list[Tensor]:
        """Batches of training images as the network's file takes them."""
        return self.inputs(images, seed, workers)

    def checked(self, images: int, workers: int) -> Iterator[Any]:
        """Batches of test images as the network's file takes them, where there are with their labels."""
        return draw(self.images.test, self.images, images, workers=workers)

    def part(self, images: int, seed: int) -> Self:
        """So many training images, drawn at random, and none held out: all where there are fewer."""
        whole = self.sizes[0]
        if images >= whole:
            return self.with_train(None)
        return self.with_train(torch.randperm(whole, generator=torch.Generator().manual_seed(seed))[:images].tolist())

    @abstractmethod
    def with_train(self, chosen: list[int] | None) -> Self:
        """Some training images, by their places, or all; none held out."""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Refuse a network that the images are not for."""

    @abstractmethod
    def learn(
        self, model: nn.Module, recipe: Recipe, teacher: Teacher | None, options: RunOptions, progress: Progress | None
    ) -> None:
        """Train a network in place."""

    @abstractmethod
    def answers(self, network: nn.Module, workers: int, progress: Progress | None, name: str) -> Answers:
        """The answers of a network, or of a file in its engine, to the test images."""

    @property
    def of_a_trained_one(self) -> float:
        """A score that no network has by chance, 0..1: that of the same answer to all is one over the classes."""
        chance = 1 / len(self.images.classes)
        return chance + ABOVE_CHANCE * (1 - chance)

    @abstractmethod
    def held_out_score(self, model: nn.Module, device: str, workers: int) -> float:
        """Share of what is right on the held-out images, 0..1."""

    @abstractmethod
    def judge(self, model: nn.Module, original: nn.Module, images: int, device: str, workers: int) -> Judged:
        """A network beside its original on so many held-out images; both are on the device, in eval mode."""
