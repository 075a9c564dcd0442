"""Train a network to name what is in images."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ghostify.data.augment import normalise, random_crop_flip
from ghostify.data.images import Batch, ImageData, MemoryImages, count_images, join_batches
from ghostify.data.sample import draw_inputs
from ghostify.data.sources import augmented
from ghostify.errors import InputError, spelled
from ghostify.fitting.refine import hints_distance
from ghostify.jobs.accelerator import accelerator_on
from ghostify.jobs.checkpoint import Epoch
from ghostify.jobs.evaluate import Score, check_fit, evaluate, logits_of
from ghostify.jobs.hints import IMAGES_TO_MATCH
from ghostify.jobs.learn import ON_THE_CPU, AfterEpoch, Answer, RunOptions, drops_last, learn, memory_format_of
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.training import Training, scored_training
from ghostify.jobs.training_folder import TrainingFolder
from ghostify.planning.measurements import fingerprint
from ghostify.progress import Progress
from ghostify.structure.blocks import ends_of
from ghostify.transform.match import match_ends


@dataclass(frozen=True)
class Teacher:
    """A trained network whose answers are learned beside the labels (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        network: Put into eval mode and on the device of the training.
        weight: Share of the loss that is disagreement with the teacher, above 0 to 1; 1 learns no labels.
        temperature: Divisor of both networks' logits before softened answers are compared.
        hints: Compare logits and the ends of shared blocks instead of softened answers, by mean squared error over
            variance as in refinement (hints: Romero et al. 2015, arXiv:1412.6550). Each map is compared with the
            teacher's nearest one at the start; logits alone where no block's maps are of one size.
    """

    network: nn.Module
    weight: float = 0.9
    temperature: float = 4.0
    hints: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise InputError(f"{spelled('weight')} is {self.weight:g}: expected a weight above 0 to 1")
        if not self.temperature > 0:
            raise InputError(f"{spelled('temperature')} is {self.temperature:g}: expected one above 0")


def train(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    options: RunOptions = ON_THE_CPU,
    progress: Progress | None = None,
    after_epoch: AfterEpoch | None = None,
) -> list[Epoch]:
    """Train a network on labelled images, in place; see ``learn`` for what holds for every training.

    Args:
        teacher: Network to learn from beside the labels, such as the original of a ghost.
        options: Device, workers and checkpoint.
        progress, after_epoch: See ``learn``.
    Returns:
        One entry per epoch, those before a resume included.
    Raises:
        InputError: If network, data, teacher, recipe, device and checkpoint do not go together, or the loss is no
            longer finite.
    """
    outputs = check_fit(model, data)
    data = augmented(data, recipe.color_jitter, recipe.rand_augment)
    settings = data.identity
    if teacher is not None:
        known = check_fit(teacher.network, data)
        if known != outputs:
            raise InputError(f"the teacher returns {known} logits, the network {outputs}: expected as many of both")
        settings |= settings_of(teacher)
    with ExitStack() as borrowed:
        accelerator = borrowed.enter_context(accelerator_on(options.device, recipe.accumulate))
        draw = partial(draw_inputs, data, IMAGES_TO_MATCH, recipe.seed, batch_size=16, workers=options.workers)
        lessons = borrowed.enter_context(lessons_of(model, teacher, recipe, accelerator.device, draw))
        return learn(
            model,
            Classification(data, lessons, recipe.label_smoothing, options.workers),
            recipe,
            settings=settings,
            options=options,
            accelerator=accelerator,
            progress=progress,
            after_epoch=after_epoch,
        )


def settings_of(teacher: Teacher) -> dict[str, Any]:
    """The facts about a teacher that a checkpoint must agree with."""
    return {
        "teacher": fingerprint(teacher.network.state_dict().items()),
        "hints": teacher.hints,
        "teacher_weight": teacher.weight,
        "temperature": teacher.temperature,
    }


@dataclass(frozen=True)
class Lessons:
    """A teacher, and how a network is held beside it.

    Args:
        teacher: On the device of the training; None: nothing.
        ends: Blocks that give hints, and which of the teacher's maps the network has there.
        outputs: Their outputs in the network for this batch.
        targets: And in the teacher.
    """

    teacher: Teacher | None = None
    ends: Mapping[str, Tensor | None] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    def added_to(self, loss: Tensor, logits: Tensor, x: Tensor, logits_in: Callable[[Any], Tensor]) -> Tensor:
        """The loss of labels and, by its weight, the distance from the teacher.

        Args:
            logits: The network's, ``[batch, classes]`` or ``[batch, classes, height, width]``.
            x: The batch.
            logits_in: Finds logits like these in the teacher's output.
        """
        if self.teacher is None:
            return loss
        with torch.no_grad():
            answers = logits_in(self.teacher.network(x))
        if self.teacher.hints:
            distance = hints_distance(logits, answers, self.ends, self.outputs, self.targets)
        else:
            distance = disagreement(logits, answers, self.teacher.temperature)
        return (1 - self.teacher.weight) * loss + self.teacher.weight * distance


@contextmanager
def lessons_of(
    model: nn.Module,
    teacher: Teacher | None,
    recipe: Recipe,
    device: torch.device,
    draw: Callable[[], Iterable[Tensor]],
) -> Iterator[Lessons]:
    """Put a teacher on the device and, where it gives hints, listen to the blocks of both networks.

    Args:
        draw: Draws batches of images, by which the blocks' maps are matched.
    """
    if teacher is None:
        yield Lessons()
        return
    teacher.network.to(device).to(memory_format=memory_format_of(recipe)).eval()
    ends: dict[str, Tensor | None] = {}
    if teacher.hints:
        if recipe.cuda_graph:
            raise InputError(
                f"{spelled('cuda_graph')}: expected a teacher without hints, which a recorded step does not give"
            )
        model.to(device)
        ends = match_ends(teacher.network, model, [batch.to(device) for batch in draw()])
    with ends_of(teacher.network, ends) as targets, ends_of(model, ends) as outputs:
        yield Lessons(teacher, ends, outputs, targets)


def train_and_score(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    options: RunOptions = ON_THE_CPU,
    folder: TrainingFolder | None = None,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> Training[Score]:
    """Train a network in place, score it on the test images, and write all that to a folder where there is one.

    Args:
        folder: Gets the network of the best epoch and of the last, log and history.
        settings: JSON values for the record.
    """
    return scored_training(
        model,
        lambda after_epoch: train(
            model, data, recipe, teacher=teacher, options=options, progress=progress, after_epoch=after_epoch
        ),
        lambda: evaluate(model, data.test, data, device=options.device, workers=options.workers),
        Score.numbers,
        folder=folder,
        settings=settings,
        device=options.device,
    )


@dataclass(frozen=True)
class Classification:
    """The task: a class for every image."""

    data: ImageData
    lessons: Lessons
    label_smoothing: float
    workers: int

    def loader(self, recipe: Recipe, order: torch.Generator) -> DataLoader[Batch]:
        return make_loader(self.data.train, recipe.batch_size, self.workers, order)

    def prepare(self, batch: Batch, recipe: Recipe) -> Batch:
        """uint8 images to the network's augmented, normalised input."""
        pixels, labels = batch
        if recipe.augment and self.data.crop_padding:
            pixels = random_crop_flip(pixels, self.data.crop_padding, self.data.flip)
        x = normalise(pixels, self.data.mean, self.data.std).contiguous(memory_format=memory_format_of(recipe))
        return x, labels

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        x, labels = batch
        logits = logits_of(model(x))
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        loss = self.lessons.added_to(loss, logits, x, logits_of)
        return Answer(loss, len(labels), int((logits.detach().argmax(1) == labels).sum()))

    def networks(self, model: nn.Module, recipe: Recipe) -> list[nn.Module]:
        found = count_images(self.data.train)
        if not drops_last(found, recipe.batch_size):
            raise InputError(
                f"{spelled('cuda_graph')}: expected at least two batches of {recipe.batch_size} images, found {found}"
            )
        return [model] if self.lessons.teacher is None else [model, self.lessons.teacher.network]

    def trained_before(self, model: nn.Module) -> nn.Module:
        return model

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Each process asks about its share of the images; each image counts once."""
        if self.data.val is None:
            return {}
        device, share = accelerator.device, (accelerator.process_index, accelerator.num_processes)
        mine = evaluate(model, self.data.val, self.data, device=str(device), workers=self.workers, share=share)
        counts = accelerator.reduce(torch.tensor(mine.counts, device=device), "sum")
        return {"val_top1": Score(tuple(map(tuple, counts.tolist()))).top1}


def disagreement(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """Kullback–Leibler divergence of softened answers, so scaled that the temperature leaves gradients their size.

    Args:
        logits, answers: ``[batch, classes]``, or ``[batch, classes, height, width]`` of which all pixels count alike.
    Example:
        >>> answers = torch.tensor([[2.0, 0.0]])
        >>> round(float(disagreement(torch.tensor([[0.0, 0.0]]), answers, 1.0)), 4)
        0.3278
    """
    rows = (x.movedim(1, -1).flatten(0, -2).float() for x in (logits, answers))
    mine, right = (nn.functional.log_softmax(x / temperature, 1) for x in rows)
    return temperature**2 * nn.functional.kl_div(mine, right, reduction="batchmean", log_target=True)


def make_loader(dataset: Dataset[Batch], batch_size: int, workers: int, order: torch.Generator) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        generator=order,
        collate_fn=join_batches,
        num_workers=0 if isinstance(dataset, MemoryImages) else workers,
        drop_last=drops_last(count_images(dataset), batch_size),
    )
