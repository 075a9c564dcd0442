"""Train a network on labelled images."""

import math
import os
import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from ghostify.atomic import replacing
from ghostify.data.augment import normalise, random_crop_flip
from ghostify.data.images import Batch, ImageData, MemoryImages, join_batches
from ghostify.errors import InputError
from ghostify.jobs.evaluate import Score, check_fit, evaluate, logits_of
from ghostify.measure.environment import computes_in_bf16
from ghostify.progress import Progress

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "steps")
PRECISIONS = ("auto", "fp32", "bf16")
CHECKPOINT_FORMAT = "ghostify training 2"


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per step and process.
        optimizer: "sgd" (momentum 0.9, Nesterov) or "adamw".
        lr: Peak learning rate.
        weight_decay: Of weights; biases and BatchNorm have none.
        schedule: "cosine" down to 0, or "steps": a tenth after each of 50 %, 75 % and 94 % of the epochs.
        warmup_epochs: Epochs, or parts of one, of linear rise from 0.
        label_smoothing: Share of the target spread over all classes.
        augment: Random crops, and mirror images where the data set allows.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 where the processor computes in it.
        channels_last: Memory order of the maps.
        freeze_norm: Hold BatchNorm's statistics, as for a trained network that has them folded away.
        seed: Of weights, order and augmentation.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    augment: bool = True
    precision: str = "auto"
    channels_last: bool = True
    freeze_norm: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if self.epochs < 1 or self.batch_size < 2:
            raise InputError(f"epochs is {self.epochs}, batch size {self.batch_size}: expected at least 1 and 2")
        if not (self.lr > 0 and self.weight_decay >= 0 and self.warmup_epochs >= 0 and 0 <= self.label_smoothing < 1):
            raise InputError("expected lr > 0, weight decay and warm-up epochs >= 0, label smoothing from 0 to below 1")


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


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave.

    Args:
        epoch: Counted from 1.
        train_loss: Mean over the pass.
        train_top1: Share right on the augmented images, while learning, 0..1.
        val_top1: Share right on the held-out images after the pass; None where nothing is held out.
        lr: Learning rate of the last step.
        seconds: Of the pass, without evaluation.
        data_share: Part of them spent waiting for and augmenting images, 0..1.
    """

    epoch: int
    train_loss: float
    train_top1: float
    val_top1: float | None
    lr: float
    seconds: float
    data_share: float


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
) -> list[Epoch]:
    """Train a network in place.

    Every epoch is a function of the seed, its number and the weights, so that on a CPU, with the same
    number of threads, the same call gives the same weights, whether or not it was interrupted.
    Started by torchrun, the processes share the images and process 0 writes.

    Args:
        teacher: To learn from beside the labels, such as the original of a ghost.
        checkpoint: File for the state after each epoch, replaced whole; None for none.
        resume: Go on from ``checkpoint`` if it is there.
        device: "cpu" or "cuda".
        workers: Processes that decode images; none for images in memory.
        progress: Told of each step.
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

    accelerator = Accelerator(cpu=device == "cpu")
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model.to(memory_format=memory_format)
    if teacher is not None:
        teacher.network.to(accelerator.device).to(memory_format=memory_format).eval()
        known = check_fit(teacher.network, data)
        if known != outputs:
            raise InputError(f"the teacher returns {known} logits, the network {outputs}: expected as many of both")
    order = torch.Generator()
    loader = make_loader(data.train, recipe.batch_size, workers, order)
    optimizer = make_optimizer(model, recipe)
    net, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    scheduler = LambdaLR(optimizer, lambda step: lr_factor(step, len(loader), recipe))
    history: list[Epoch] = []
    learning = {"teacher_weight": teacher.weight, "temperature": teacher.temperature} if teacher else {}
    settings = asdict(recipe) | learning
    if path is not None and path.exists():
        history = load_checkpoint(path, model, optimizer, scheduler, settings)

    run = TrainingRun(accelerator, net, loader, optimizer, scheduler, data, recipe, teacher, memory_format)
    for number in range(len(history) + 1, recipe.epochs + 1):
        order.manual_seed(recipe.seed * 1_000_003 + number)
        torch.manual_seed(recipe.seed * 1_000_003 + number * 1_009 + accelerator.process_index)
        history.append(run.epoch(number, progress))
        if path is not None and accelerator.is_main_process:
            save_checkpoint(path, model, optimizer, scheduler, settings, history)
    accelerator.wait_for_everyone()
    return history


@dataclass(frozen=True)
class TrainingRun:
    """What stays the same from epoch to epoch."""

    accelerator: Accelerator
    model: nn.Module
    loader: DataLoader[Batch]
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
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
        return Epoch(
            epoch=number,
            train_loss=loss_sum / seen,
            train_top1=right / seen,
            val_top1=self.validate(self.data.val).top1 if self.data.val is not None else None,
            lr=float(self.scheduler.get_last_lr()[0]),
            seconds=seconds,
            data_share=data_seconds / seconds,
        )

    def prepare(self, pixels: Tensor) -> Tensor:
        """uint8 images to the network's augmented, normalised input."""
        if self.recipe.augment and self.data.crop_padding:
            pixels = random_crop_flip(pixels, self.data.crop_padding, self.data.flip)
        return normalise(pixels, self.data.mean, self.data.std).contiguous(memory_format=self.memory_format)

    def step(self, x: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """One optimisation step; the loss and the logits before it."""
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
            self.optimizer.zero_grad()
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
        return value, logits.detach()

    def validate(self, val: Dataset[Batch]) -> Score:
        network = self.accelerator.unwrap_model(self.model)
        return evaluate(network, val, self.data, device=str(self.accelerator.device))


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
    length = len(dataset)  # type: ignore[arg-type]  # ours have a length; the base class does not say so
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        generator=order,
        collate_fn=join_batches,
        num_workers=0 if isinstance(dataset, MemoryImages) else workers,
        drop_last=length >= 2 * batch_size,  # a last batch of a few images would spoil BatchNorm's statistics
    )


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay acts on weights, not on biases and BatchNorm."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)


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
    if recipe.schedule == "steps":
        return 0.1 ** sum(step >= share * steps for share in (0.5, 0.75, 0.9375))
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def trains_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether bf16 is asked for, or for "auto", whether the processor computes in it."""
    return precision == "bf16" or (precision == "auto" and computes_in_bf16(device))


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    settings: dict[str, Any],
    history: list[Epoch],
) -> None:
    state = {
        "format": CHECKPOINT_FORMAT,
        "settings": settings,
        "history": [asdict(epoch) for epoch in history],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": scheduler.last_epoch},
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LambdaLR, settings: dict[str, Any]
) -> list[Epoch]:
    """Put a saved state back; the epochs that it has behind it."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path} is no training checkpoint, or is cut short: start anew in another place") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path} is no training checkpoint of this version: expected {CHECKPOINT_FORMAT!r}")
    before = state["settings"]
    changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    if changed:
        was = ", ".join(f"{key} was {before.get(key)}" for key in changed)
        raise InputError(f"{path} was begun otherwise: {was}; resume with the same settings")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise InputError(f"{path} is of another network than {type(model).__name__} as given here") from error
    optimizer.load_state_dict(state["optimizer"])
    scheduler.last_epoch = state["scheduler"]["last_epoch"]
    return [Epoch(**epoch) for epoch in state["history"]]
