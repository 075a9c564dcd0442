"""A run whose network finds objects."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou

from ghostify.data.coco import CocoImages, DetectionData, draw_images
from ghostify.fitting.refine import apart
from ghostify.inference.file_detector import detector_by_file
from ghostify.inference.file_network import FileNetwork
from ghostify.jobs.coco_score import Found, ap_by_draws, score_boxes
from ghostify.jobs.detect import as_floats, check_detector, evaluate_detector, train_detector
from ghostify.jobs.images_of_run import Answers, Data, Judged, Scored
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher
from ghostify.plain_part import PlainPart, input_shape_of, what_it_takes
from ghostify.progress import Progress
from ghostify.transform.detector import plain_inputs

CHECKED = 20  # images: one of a detector takes as long as many others
LEAST = 0.01  # average precision of a detector that has learnt something
SURE = 0.5  # score of a box that `detect predict` reports, and the overlap with another's that is the same one


@dataclass(frozen=True)
class BoxAnswers(Answers):
    """The boxes that are found in all test images, as COCO's result rows."""

    found: list[Found]
    images: CocoImages

    @cached_property
    def scored(self) -> Scored:
        """COCO's average precision, and its interval by draws of the images (Efron 1979)."""
        low, high = ap_by_draws(self.images.annotations, self.found)
        return Scored(score_boxes(self.images.annotations, self.found).ap, low, high)

    def same_as(self, other: "BoxAnswers") -> float:
        """Share of the other's sure boxes that are here, too; one box stands for one of them."""
        mine, theirs = self.sure(), other.sure()
        if not theirs:
            return float(not mine)
        same = sum(shared(mine[place], boxes) for place, boxes in theirs.items() if place in mine)
        return same / sum(map(len, theirs.values()))

    def sure(self) -> dict[tuple[int, int], Tensor]:
        """Boxes ``[boxes, 4]`` by image and category."""
        found: defaultdict[tuple[int, int], list[list[float]]] = defaultdict(list)
        for row in self.found:
            if row["score"] >= SURE:
                found[row["image_id"], row["category_id"]].append(row["bbox"])
        return {place: box_convert(torch.tensor(boxes), "xywh", "xyxy") for place, boxes in found.items()}


def shared(mine: Tensor, theirs: Tensor) -> int:
    """How many of their boxes have one of mine, the largest overlaps first."""
    overlaps, pairs = box_iou(mine, theirs), 0
    while overlaps.numel() and float(overlaps.max()) >= SURE:
        row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
        overlaps[row], overlaps[:, column] = 0, 0
        pairs += 1
    return pairs


@dataclass(frozen=True)
class BoxesOfRun(Data):
    """Images with boxes.

    Args:
        detector: The network, which knows how images become inputs, and boxes are made of its outputs.
    """

    measure = "AP"
    batch = 8

    images: DetectionData
    detector: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The largest input of the plain part."""
        return input_shape_of(self.detector)

    @property
    def first(self) -> tuple[Tensor, Any]:
        image, target = self.images.test[0]
        return image[None], target

    @property
    def first_input(self) -> Tensor:
        return plain_inputs(self.detector, [[as_floats(self.images.test[0][0])]])[0]

    @property
    def title_of_first(self) -> str:
        return f"of {self.images.name}"

    def inputs(self, images: int, seed: int, workers: int, device: str = "cpu") -> list[Any]:
        """Batches of training images with values 0..1, each of its own size."""
        return draw_images(self.images.train, images, seed, device=device)

    def ranges(self, images: int, seed: int, workers: int) -> list[Tensor]:
        return self.at_full_size(plain_inputs(self.detector, self.inputs(images, seed, workers)))

    def checked(self, images: int, workers: int) -> Iterator[Tensor]:
        drawn = draw_images(self.images.test, min(images, CHECKED), batch_size=1)
        return iter(self.at_full_size(plain_inputs(self.detector, drawn)))

    def at_full_size(self, inputs: list[Tensor]) -> list[Tensor]:
        """The same, padded to the file's input."""
        _, height, width = self.shape
        return [F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])) for x in inputs]

    def with_train(self, chosen: list[int] | None) -> Self:
        train = self.images.train
        if chosen is not None:
            train = CocoImages(train.annotations.of_images([train.images[place] for place in chosen]), train.change)
        return replace(self, images=replace(self.images, train=train, val=None))

    def check(self, model: nn.Module) -> None:
        check_detector(model, self.images)

    def learn(
        self, model: nn.Module, recipe: Recipe, teacher: Teacher | None, options: RunOptions, progress: Progress | None
    ) -> None:
        train_detector(model, self.images, recipe, teacher=teacher, options=options, progress=progress)

    def answers(self, network: nn.Module, workers: int, progress: Progress | None, name: str) -> BoxAnswers:
        assert isinstance(network, FileNetwork)
        asked: Any = detector_by_file(self.detector, network)
        report = None if progress is None else (lambda _, __, done, total: progress("test images", name, done, total))
        _, found = evaluate_detector(asked, self.images.test, self.images, workers=workers, progress=report)
        return BoxAnswers(found, self.images.test)

    @property
    def of_a_trained_one(self) -> float:
        return LEAST

    def held_out_score(self, model: nn.Module, device: str, workers: int) -> float:
        assert self.images.val is not None
        return evaluate_detector(model, self.images.val, self.images, device=device, workers=workers)[0].ap

    def judge(self, model: nn.Module, original: nn.Module, images: int, device: str, workers: int) -> Judged:
        assert self.images.val is not None
        val = self.images.val
        some = CocoImages(val.annotations.of_images(val.images[:images]))
        errors = []
        for batch in draw_images(some, images, batch_size=1, device=device):
            x = plain_inputs(model, [batch])[0]
            pairs = zip(PlainPart(model)(x), PlainPart(original)(x), strict=True)
            errors.append(torch.stack([apart(*pair) for pair in pairs]).mean())
        score, _ = evaluate_detector(model, some, self.images, device=device, workers=workers)
        return Judged(float(torch.stack(errors).mean()), score.ap)


def boxes_of_run(data: DetectionData, detector: Any, preprocessing: dict[str, Any]) -> BoxesOfRun:
    """The images of a run for a detector, with how they become its inputs."""
    return BoxesOfRun(data, True, {**data.preprocessing, **preprocessing, **what_it_takes(detector)}, detector)
