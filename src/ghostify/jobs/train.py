"""Train a network on labelled images."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from ghostify.data.augment import normalise, random_crop_flip
from ghostify.data.images import Batch, ImageData, MemoryImages, count_images, join_batches
from ghostify.data.sources import augmented
from ghostify.errors import InputError
from ghostify.jobs.checkpoint import Epoch, Learner, load_checkpoint, save_checkpoint
from ghostify.jobs.evaluate import Score, check_fit, evaluate, logits_of
from ghostify.jobs.recipe import Recipe
from ghostify.measure.environment import computes_in_bf16
from ghostify.progress import Progress

# Shares of a training after which the learning rate falls to a tenth.
DROPS = {"steps": (0.5, 0.75, 0.9375), "thirds": (1 / 3, 2 / 3)}
AfterEpoch = Callable[[list[Epoch], nn.Module], None]


@dataclass(frozen=True)
class Teacher:
    """A trained network whose answers are learned beside the labels (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        network: Put into eval mode and on the device of the training.
        weight: Share of the loss that is disagreement with the teacher, above 0 to 1; 1 learns no labels.
        temperature: What both networks' logits are divided by before their answers are compared.
    """

    network: nn.Module
    weight: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not (0 < self.weight <= 1 and self.temperature > 0):
            raise InputError("teacher: expected a weight above 0 to 1 and a temperature above 0")


def train(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 0,
    progress: Progress | None = None,
    after_epoch: AfterEpoch | None = None,
) -> list[Epoch]:
    """Train a network in place.

    Every epoch is a function of the seed, its number and the weights, so that on a CPU, with the same
    number of threads, the same call gives the same weights, whether or not it was interrupted.
    Started by torchrun, the processes share the images and process 0 writes.

    Args:
        teacher: To learn from beside the labels, such as the original of a ghost.
        checkpoint: File for the state after each epoch, replaced whole; None for none.
        resume: Go on with ``checkpoint`` if it is there.
        device: "cpu" or "cuda".
        workers: Processes that decode images; none for images in memory.
        progress: Told of each step.
        after_epoch: Given the history and the network that was validated, in process 0, before the checkpoint is
            written: what an interrupted epoch wrote is written again.
    Returns:
        One entry per epoch, those before a resume included.
    Raises:
        InputError: If network, data, recipe and checkpoint do not go together, or the loss is no
            longer finite; the checkpoint is then that of the last whole epoch.
    """
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists() and not resume:
        raise InputError(f"{path} holds a training that began before: resume it or choose another place")
    outputs = check_fit(model, data)
    data = augmented(data, recipe.color_jitter, recipe.rand_augment)

    accelerator = Accelerator(cpu=device == "cpu", gradient_accumulation_steps=recipe.accumulate)
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model.to(memory_format=memory_format)
    if teacher is not None:
        teacher.network.to(accelerator.device).to(memory_format=memory_format).eval()
        known = check_fit(teacher.network, data)
        if known != outputs:
            raise InputError(f"the teacher returns {known} logits, the network {outputs}: expected as many of both")
    order = torch.Generator()
    loader = make_loader(data.train, recipe.batch_size, workers, order)
    optimizer = make_optimizer(model, recipe, recipe.peak_lr(accelerator.num_processes))
    net, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    average = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True) if recipe.ema else None
    )
    optimizer.zero_grad()
    steps = math.ceil(len(loader) / recipe.accumulate)
    learner = Learner(model, average, optimizer, LambdaLR(optimizer, lambda step: lr_factor(step, steps, recipe)))
    history: list[Epoch] = []
    learning = {"teacher_weight": teacher.weight, "temperature": teacher.temperature} if teacher else {}
    settings = asdict(recipe) | learning | {"processes": accelerator.num_processes}
    if path is not None and path.exists():
        history = load_checkpoint(path, learner, settings)

    run = TrainingRun(accelerator, net, learner, loader, data, recipe, teacher, memory_format)
    for number in range(len(history) + 1, recipe.epochs + 1):
        order.manual_seed(recipe.seed * 1_000_003 + number)
        torch.manual_seed(recipe.seed * 1_000_003 + number * 1_009 + accelerator.process_index)
        history.append(run.epoch(number, progress))
        if accelerator.is_main_process:
            if after_epoch is not None:
                after_epoch(history, run.validated)
            if path is not None:
                save_checkpoint(path, learner, settings, history)
    accelerator.wait_for_everyone()
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    return history


@dataclass(frozen=True)
class TrainingRun:
    """What stays the same from epoch to epoch."""

    accelerator: Accelerator
    model: nn.Module
    learner: Learner
    loader: DataLoader[Batch]
    data: ImageData
    recipe: Recipe
    teacher: Teacher | None
    memory_format: torch.memory_format

    def epoch(self, number: int, progress: Progress | None) -> Epoch:
        """One pass over the training images, then one over those held out."""
        self.model.train()
        if self.recipe.freeze_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        started, data_seconds = time.perf_counter(), 0.0
        loss_sum, right, seen = 0.0, 0, 0
        batches, steps = iter(self.loader), len(self.loader)
        for step in range(steps):
            waiting = time.perf_counter()
            pixels, labels = next(batches)
            x = self.prepare(pixels)
            data_seconds += time.perf_counter() - waiting
            loss, logits = self.step(x, labels)
            if not math.isfinite(loss):
                raise InputError(
                    f"the loss is {loss} at step {step + 1} of epoch {number}: "
                    f"expected a finite one; try a lower learning rate than {self.recipe.lr:g}"
                )
            loss_sum += loss * len(labels)
            right += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
            if progress:
                done, total = (number - 1) * steps + step + 1, self.recipe.epochs * steps
                progress("train", f"epoch {number}/{self.recipe.epochs}, loss {loss_sum / seen:.3f}", done, total)
        seconds = time.perf_counter() - started
        all_loss, all_right, images = self.over_all_processes([loss_sum, right, seen])
        return Epoch(
            epoch=number,
            images=int(images),
            train_loss=all_loss / images,
            train_top1=all_right / images,
            val_top1=self.validate(self.data.val).top1 if self.data.val is not None else None,
            lr=float(self.learner.scheduler.get_last_lr()[0]),
            seconds=seconds,
            data_share=data_seconds / seconds,
        )

    def over_all_processes(self, sums: list[float]) -> list[float]:
        """The sums of what the processes counted, exact for whole numbers."""
        mine = torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(mine, "sum").tolist()

    def prepare(self, pixels: Tensor) -> Tensor:
        """uint8 images to the network's augmented, normalised input."""
        if self.recipe.augment and self.data.crop_padding:
            pixels = random_crop_flip(pixels, self.data.crop_padding, self.data.flip)
        return normalise(pixels, self.data.mean, self.data.std).contiguous(memory_format=self.memory_format)

    def step(self, x: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """One batch, and where enough are gathered a step of the optimizer; the loss and the logits before it."""
        learner, accelerator = self.learner, self.accelerator
        with accelerator.accumulate(self.model):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=trains_in_bf16(self.recipe.precision, x.device)):
                logits = logits_of(self.model(x))
                loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
                if self.teacher is not None:
                    with torch.no_grad():
                        answers = logits_of(self.teacher.network(x))
                    apart = disagreement(logits, answers, self.teacher.temperature)
                    loss = (1 - self.teacher.weight) * loss + self.teacher.weight * apart
            value = loss.item()
            if math.isfinite(value):
                accelerator.backward(loss)
                learner.optimizer.step()
                learner.optimizer.zero_grad()
                if accelerator.sync_gradients:
                    learner.scheduler.step()
                    if learner.average is not None:
                        learner.average.update_parameters(learner.model)
        return value, logits.detach()

    @property
    def validated(self) -> nn.Module:
        """The network that counts: the average of the weights where there is one."""
        return self.learner.model if self.learner.average is None else self.learner.average.module

    def validate(self, val: Dataset[Batch]) -> Score:
        """Each process asks about its share of the images; each image counts once."""
        device, share = self.accelerator.device, (self.accelerator.process_index, self.accelerator.num_processes)
        mine = evaluate(self.validated, val, self.data, device=str(device), share=share)
        counts = torch.tensor(mine.counts, device=device)
        return Score(counts=tuple(map(tuple, self.accelerator.reduce(counts, "sum").tolist())))


def disagreement(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """Kullback–Leibler divergence of softened answers, so scaled that the temperature leaves gradients their size.

    Example:
        >>> answers = torch.tensor([[2.0, 0.0]])
        >>> round(float(disagreement(torch.tensor([[0.0, 0.0]]), answers, 1.0)), 4)
        0.3278
    """
    mine, right = (nn.functional.log_softmax(x.float() / temperature, 1) for x in (logits, answers))
    return temperature**2 * nn.functional.kl_div(mine, right, reduction="batchmean", log_target=True)


def make_loader(dataset: Dataset[Batch], batch_size: int, workers: int, order: torch.Generator) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        generator=order,
        collate_fn=join_batches,
        num_workers=0 if isinstance(dataset, MemoryImages) else workers,
        drop_last=count_images(dataset)
        >= 2 * batch_size,  # a last batch of a few images would spoil BatchNorm's statistics
    )


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay acts on weights, not on biases and BatchNorm."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def lr_factor(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """The share of the peak learning rate that a step has.

    Example:
        >>> recipe = Recipe(epochs=4, warmup_epochs=1)
        >>> [round(lr_factor(step, 10, recipe), 2) for step in (0, 9, 10, 25, 39)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup, steps = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if recipe.schedule in DROPS:
        return 0.1 ** sum(step >= share * steps for share in DROPS[recipe.schedule])
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def trains_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether bf16 is asked for, or for "auto", whether the processor computes in it."""
    return precision == "bf16" or (precision == "auto" and computes_in_bf16(device))
