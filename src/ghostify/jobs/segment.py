"""Train networks that name the class of each pixel, and score them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from ghostify.data.augment import normalise
from ghostify.data.images import Batch, join_batches
from ghostify.data.masks import IGNORED, MaskData, MaskedImages
from ghostify.errors import InputError, first_sentence, spelled
from ghostify.jobs.accelerator import accelerator_on
from ghostify.jobs.checkpoint import Epoch
from ghostify.jobs.hints import IMAGES_TO_MATCH
from ghostify.jobs.learn import ON_THE_CPU, AfterEpoch, Answer, RunOptions, drops_last, learn, memory_format_of
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Lessons, Teacher, lessons_of, settings_of
from ghostify.jobs.training import Training, scored_training
from ghostify.jobs.training_folder import TrainingFolder
from ghostify.modes import evaluating
from ghostify.progress import Progress

# Of the loss of a second output beside the first, as torchvision's references train DeepLabV3 and FCN.
AUX = 0.5


@dataclass(frozen=True)
class MaskScore:
    """Right pixels of a network.

    Args:
        images: How many it was asked about.
        classes: Names of the classes.
        counts: Pixels of each class, ``[class in the mask][class by the network]``.
    """

    images: int
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def ious(self) -> dict[str, float | None]:
        """Intersection over union of each class, 0..1; None of one that is neither in a mask nor in an answer."""
        counts = np.array(self.counts)
        both, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        return {
            name: float(inside / whole) if whole else None
            for name, inside, whole in zip(self.classes, both, either, strict=True)
        }

    @property
    def mean_iou(self) -> float:
        """Mean of these over the classes that are there, 0..1.

        Example:
            >>> MaskScore(1, ("background", "cat", "dog"), ((6, 2, 0), (0, 2, 0), (0, 0, 0))).mean_iou
            0.625
        """
        return float(np.mean([iou for iou in self.ious.values() if iou is not None]))

    @property
    def pixel_accuracy(self) -> float:
        """Share of right pixels, 0..1."""
        counts = np.array(self.counts)
        return float(counts.trace() / counts.sum())

    def numbers(self) -> dict[str, Any]:
        """JSON values."""
        found = {"mean_iou": self.mean_iou, "pixel_accuracy": self.pixel_accuracy, "test_images": self.images}
        return found | {"ious": self.ious}


def train_segmenter(
    model: nn.Module,
    data: MaskData,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    options: RunOptions = ON_THE_CPU,
    progress: Progress | None = None,
    after_epoch: AfterEpoch | None = None,
) -> list[Epoch]:
    """Train a network on images with masks, in place; see ``learn`` for what holds of every training.

    Args:
        model: Returns logits ``[batch, classes, height, width]``, or a mapping or tuple that begins with them, as
            torchvision's do; smaller maps are enlarged to the mask's size.
        teacher: Network to learn from beside the masks, such as the original of a planned one.
        options: Device, workers and checkpoint.
        progress, after_epoch: See ``learn``.
    Returns:
        One entry per epoch, those before a resume included.
    Raises:
        InputError: If network, data, teacher, recipe, device and checkpoint do not go together, or the loss is no
            longer finite.
    """
    outputs = check_maps(model, data)
    for name, unsuited in (("color_jitter", 0.0), ("rand_augment", False), ("cuda_graph", False)):
        if getattr(recipe, name) != unsuited:
            raise InputError(f"{spelled(name)} is for classification: leave it out for masks")
    settings = {"task": "segmentation"} | data.identity
    if teacher is not None:
        if check_maps(teacher.network, data) != outputs:
            raise InputError("the teacher returns maps of other classes than the network: expected as many of both")
        settings |= settings_of(teacher)
    with ExitStack() as borrowed:
        accelerator = borrowed.enter_context(accelerator_on(options.device, recipe.accumulate))
        draw = partial(draw_masked_inputs, data, IMAGES_TO_MATCH, recipe.seed)
        lessons = borrowed.enter_context(lessons_of(model, teacher, recipe, accelerator.device, draw))
        return learn(
            model,
            Segmentation(data, lessons, recipe.label_smoothing, options.workers),
            recipe,
            settings=settings,
            options=options,
            accelerator=accelerator,
            progress=progress,
            after_epoch=after_epoch,
        )


def train_and_score_segmenter(
    model: nn.Module,
    data: MaskData,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    options: RunOptions = ON_THE_CPU,
    folder: TrainingFolder | None = None,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> Training[MaskScore]:
    """Train a network in place, score it on the val images, and write all that to a folder where there is one.

    Args:
        folder: Gets the network of the best epoch and of the last, log and history.
        settings: JSON values for the record.
    """
    return scored_training(
        model,
        lambda after_epoch: train_segmenter(
            model, data, recipe, teacher=teacher, options=options, progress=progress, after_epoch=after_epoch
        ),
        lambda: evaluate_segmenter(model, data.test, data, device=options.device, workers=options.workers),
        MaskScore.numbers,
        folder=folder,
        settings=settings,
        device=options.device,
    )


@dataclass(frozen=True)
class Segmentation:
    """The task: a class for every pixel."""

    data: MaskData
    lessons: Lessons
    label_smoothing: float
    workers: int

    def loader(self, recipe: Recipe, order: torch.Generator) -> DataLoader[Batch]:
        images = self.data.train if recipe.augment else self.data.train.only(range(len(self.data.train)), self.plain)
        return DataLoader(
            images,
            batch_size=recipe.batch_size,
            shuffle=True,
            generator=order,
            collate_fn=join_batches,
            num_workers=self.workers,
            drop_last=drops_last(len(images), recipe.batch_size),
        )

    @property
    def plain(self) -> Callable[..., Any]:
        """The change of images that are scored."""
        return self.data.test.change

    def prepare(self, batch: Batch, recipe: Recipe) -> Batch:
        pixels, classes = batch
        x = normalise(pixels, self.data.mean, self.data.std).contiguous(memory_format=memory_format_of(recipe))
        return x, classes

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        x, classes = batch
        first, *others = maps_in(model(x), x)
        loss = self.loss(first, classes)
        if others:
            loss = loss + AUX * self.loss(others[0], classes)
        return Answer(self.lessons.added_to(loss, first, x, lambda output: maps_in(output, x)[0]), len(classes))

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy of the pixels that count."""
        total = F.cross_entropy(
            logits, classes, ignore_index=IGNORED, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / (classes != IGNORED).sum().clamp_min(1)

    def networks(self, model: nn.Module, recipe: Recipe) -> list[nn.Module]:
        raise InputError(f"{spelled('cuda_graph')}: expected a network that classifies")

    def trained_before(self, model: nn.Module) -> nn.Module:
        return model

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Each process asks about its share of the images; each pixel counts once."""
        if self.data.val is None:
            return {}
        device, share = accelerator.device, (accelerator.process_index, accelerator.num_processes)
        mine = count_pixels(model, self.data.val, self.data, device=str(device), workers=self.workers, share=share)
        counts = accelerator.reduce(torch.from_numpy(mine).to(device), "sum")
        return {"val_miou": score_of(counts.cpu().numpy(), self.data, len(self.data.val)).mean_iou}


def evaluate_segmenter(
    model: nn.Module,
    images: MaskedImages,
    data: MaskData,
    *,
    device: str = "cpu",
    batch_size: int = 16,
    workers: int = 0,
    progress: Progress | None = None,
) -> MaskScore:
    """Ask a network for the class of every pixel of some images once."""
    check_maps(model, data)
    counts = count_pixels(model, images, data, device=device, batch_size=batch_size, workers=workers, progress=progress)
    return score_of(counts, data, len(images))


def count_pixels(
    model: nn.Module,
    images: MaskedImages,
    data: MaskData,
    *,
    device: str = "cpu",
    batch_size: int = 16,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """Count pixels by their class in the mask and by the network: ``[classes, classes]``.

    Args:
        share: Which part of how many of the images to ask about.
    """
    part, parts = share
    mine = Subset(images, range(part, len(images), parts))
    numbers = range(len(data.classes))
    counts = np.zeros((len(numbers),) * 2, np.int64)
    with evaluating(model), torch.inference_mode():
        loader = DataLoader(mine, batch_size, collate_fn=join_batches, num_workers=workers)
        for index, (pixels, classes) in enumerate(loader):
            x = normalise(pixels.to(device), data.mean, data.std)
            # A network may know more classes than there are.
            found = maps_in(model(x), x)[0][:, : len(numbers)].argmax(1).cpu()
            counts += pixels_by_class(classes, found, len(numbers))
            if progress:
                progress("score", f"batch {index + 1}", index + 1, len(loader))
    return counts


def pixels_by_class(masks: Tensor, found: Tensor, classes: int) -> NDArray[np.int64]:
    """Pixels that count, by their class in the mask and in an answer: ``[classes, classes]``."""
    seen = masks != IGNORED
    if not seen.any():
        return np.zeros((classes, classes), np.int64)
    counts: NDArray[np.int64] = confusion_matrix(masks[seen].numpy(), found[seen].numpy(), labels=range(classes))
    return counts


def score_of(counts: NDArray[np.int64], data: MaskData, images: int) -> MaskScore:
    """The score that these pixels are.

    Raises:
        InputError: If there is none.
    """
    if not counts.sum():
        raise InputError(f"no pixel of these images of {data.name} counts: expected masks with classes")
    return MaskScore(images, data.classes, tuple(map(tuple, counts.tolist())))


def maps_in(output: Any, x: Tensor) -> list[Tensor]:
    """The logits in a network's output ``[batch, classes, height, width]``, at the size of its input.

    Behind the first ones may be others, of as many classes, for training; what else is returned is passed over.
    """
    first, *others = outputs_in(output)
    alike = [each for each in others if isinstance(each, Tensor) and each.shape[:2] == first.shape[:2]]
    size = x.shape[-2:]
    return [
        each if each.shape[-2:] == size else F.interpolate(each, size, mode="bilinear", align_corners=False)
        for each in (first, *(each for each in alike if each.ndim == first.ndim))
    ]


def outputs_in(output: Any) -> list[Any]:
    """The outputs of a network, one after the other."""
    values = list(output.values()) if isinstance(output, Mapping) else output
    return list(values) if isinstance(values, tuple | list) else [values]


def check_maps(model: nn.Module, data: MaskData) -> int:
    """Refuse a network that cannot take the images or has too few maps for the classes; how many it has."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = torch.zeros(1, 3, data.image_size, data.image_size, device=device)
    try:
        with evaluating(model), torch.inference_mode():
            output = model(x)
    except Exception as error:  # whatever the network's own code raises
        raise InputError(
            f"{type(model).__name__} cannot take the images of {data.name}, 3×{data.image_size}×{data.image_size}: "
            f"{first_sentence(error)}"
        ) from error
    first = next(iter(outputs_in(output)), None)
    expected = f"{data.name} has {len(data.classes)} classes and needs [batch, {len(data.classes)}, height, width]"
    if not isinstance(first, Tensor):
        raise InputError(f"{type(model).__name__} returns a {type(first).__name__}: {expected}")
    if first.ndim != 4 or first.shape[1] < len(data.classes):
        raise InputError(f"{type(model).__name__} returns {list(first.shape)}: {expected}")
    return first.shape[1]


def draw_masked_inputs(data: MaskData, images: int, seed: int = 0, batch_size: int = 16) -> list[Tensor]:
    """Some training images without their masks, normalised.

    Args:
        images: Number of images, drawn at random; all where there are fewer.
        seed: Seed of the draw.
    Returns:
        Batches ``[batch, 3, height, width]``.
    """
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images].tolist()
    plain = data.train.only(chosen, data.test.change)
    return [
        normalise(pixels, data.mean, data.std) for pixels, _ in DataLoader(plain, batch_size, collate_fn=join_batches)
    ]
