"""The loop of any training: epochs, steps, processes, and going on after an interruption."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from ghostify.bf16 import LearningInBf16
from ghostify.errors import InputError, spelled
from ghostify.jobs.accelerator import own_random_numbers, seed_
from ghostify.jobs.checkpoint import Epoch, Learner, load_checkpoint, save_checkpoint
from ghostify.jobs.cuda_graph import record_, recording
from ghostify.jobs.recipe import Recipe
from ghostify.measure.environment import computes_in_bf16
from ghostify.progress import Progress

# Shares of a training after which the learning rate falls to a tenth.
DROPS = {"steps": (0.5, 0.75, 0.9375), "thirds": (1 / 3, 2 / 3), "1x": (8 / 12, 11 / 12)}
AfterEpoch = Callable[[list[Epoch], nn.Module], None]


@dataclass(frozen=True)
class RunOptions:
    """How a training is run: all that is not in its recipe.

    Args:
        device: "cpu" or "cuda".
        workers: Processes that decode images; none for images in memory.
        checkpoint: File for the state after each epoch, replaced whole; None for none.
        resume: Go on with ``checkpoint`` if it is there.
        checkpoint_seconds: Least time from one checkpoint to the next, but for the last epoch's: on a GPU an epoch may
            take less than writing it does.
    """

    device: str = "cpu"
    workers: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = False
    checkpoint_seconds: float = 0.0


ON_THE_CPU = RunOptions()


@dataclass(frozen=True)
class Answer:
    """The loss of a network for one batch, and how many answers were right.

    Args:
        loss: Mean over the batch.
        images: Number of images in the batch.
        right: Number of them whose first guess was right; None for other tasks than classes.
    """

    loss: Tensor
    images: int
    right: int | None = None


class Task(Protocol):
    """A task to learn: batches, the loss of one, and a validation."""

    def loader(self, recipe: Recipe, order: torch.Generator) -> DataLoader[Any]:
        """Batches of training images, in the order of the generator."""

    def prepare(self, batch: Any, recipe: Recipe) -> Any:
        """A batch of the loader as the network takes it."""

    def answer(self, model: nn.Module, batch: Any) -> Answer:
        """The answer of the network in training to a prepared batch."""

    def networks(self, model: nn.Module, recipe: Recipe) -> list[nn.Module]:
        """The networks that ``answer`` runs on a batch's first part, for ``cuda_graph``; the one in training first.

        Raises:
            InputError: If not all batches have the same shape.
        """

    def trained_before(self, model: nn.Module) -> nn.Module:
        """The part of the network whose BatchNorm statistics ``freeze_norm`` holds."""

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Scores on the held-out images, the same in all processes, as fields of ``Epoch``."""


def learn(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    settings: dict[str, Any],
    options: RunOptions,
    accelerator: Accelerator,
    progress: Progress | None,
    after_epoch: AfterEpoch | None,
) -> list[Epoch]:
    """Train a network in place.

    Every epoch is a function of the seed, its number and the weights, so that on a CPU, with the same
    number of threads, the same call gives the same weights, whether or not it was interrupted.
    Started by torchrun, the processes share the images and process 0 writes; the caller destroys the process group.

    Args:
        settings: Settings that a checkpoint must agree with, beside the recipe.
        accelerator: On the device that the options name.
        progress: Called at each step.
        after_epoch: Called with the history and the network that was validated, in process 0, before the checkpoint is
            written: what an interrupted epoch wrote is written again.
    Returns:
        One entry per epoch, those before a resume included.
    Raises:
        InputError: If the checkpoint is another training's, a process has no batch, or the loss is no longer finite;
            the checkpoint is then that of the last whole epoch.
    """
    path = Path(options.checkpoint) if options.checkpoint is not None else None
    refuse_to_overwrite(path, options.resume)
    model.to(memory_format=memory_format_of(recipe))
    order = torch.Generator()
    loader = task.loader(recipe, order)
    optimizer = make_optimizer(model, recipe, recipe.peak_lr(accelerator.num_processes))
    net, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if not len(loader):
        raise InputError(
            f"the training images are no batch of {recipe.batch_size} for each of {accelerator.num_processes} "
            f"processes: expected a smaller batch size or fewer processes"
        )
    optimizer.zero_grad()
    steps = math.ceil(len(loader) / recipe.accumulate)
    average = None
    if recipe.ema:
        decay = recipe.ema_decay(steps * recipe.epochs)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    learner = Learner(model, average, optimizer, LambdaLR(optimizer, lambda step: lr_factor(step, steps, recipe)))
    history: list[Epoch] = []
    settings = asdict(recipe) | settings | {"processes": accelerator.num_processes}
    if path is not None and path.exists():
        history = load_checkpoint(path, learner, settings)

    run, saved = TrainingRun(accelerator, net, learner, loader, task, recipe), time.monotonic()
    with ExitStack() as borrowed:
        borrowed.enter_context(own_random_numbers(accelerator.device))
        if recipe.cuda_graph:
            borrowed.enter_context(run.recorded())
        for number in range(len(history) + 1, recipe.epochs + 1):
            order.manual_seed(recipe.seed * 1_000_003 + number)
            seed_(recipe.seed * 1_000_003 + number * 1_009 + accelerator.process_index, accelerator.device)
            history.append(run.epoch(number, progress))
            if accelerator.is_main_process:
                if after_epoch is not None:
                    after_epoch(history, run.validated)
                due = number == recipe.epochs or time.monotonic() - saved >= options.checkpoint_seconds
                if path is not None and due:
                    save_checkpoint(path, learner, settings, history)
                    saved = time.monotonic()
    accelerator.wait_for_everyone()
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    # Scored as whoever loads it will: another order in memory rounds otherwise.
    model.to(memory_format=torch.contiguous_format)
    return history


def refuse_to_overwrite(path: Path | None, resume: bool) -> None:
    if path is not None and path.exists() and not resume:
        raise InputError(
            f"{path} holds a training that began before: resume it ({spelled('resume', True)}), or choose another place"
        )


def refuse_recording(device: str, processes: int = 1) -> None:
    """Refuse to record a step where that is not on one GPU."""
    if device != "cuda" or processes > 1:
        raise InputError(f"{spelled('cuda_graph')}: expected one process on a CUDA device")


def drops_last(images: int, batch_size: int) -> bool:
    """True if an incomplete batch is left out: a few images would spoil BatchNorm's statistics.

    Where there are fewer than two batches, only a last batch of one image is: it has no statistics.

    Raises:
        InputError: If there is one image in all.
    """
    if images == 1:
        raise InputError("there is one training image: expected at least two, of which BatchNorm has statistics")
    return images >= 2 * batch_size or (images > batch_size and images % batch_size == 1)


@dataclass(frozen=True)
class TrainingRun:
    """A training, as it is the same from epoch to epoch."""

    accelerator: Accelerator
    model: nn.Module
    learner: Learner
    loader: DataLoader[Any]
    task: Task
    recipe: Recipe

    def begin_training(self) -> None:
        self.model.train()
        if self.recipe.freeze_norm:
            for module in self.task.trained_before(self.learner.model).modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Have the networks recorded as CUDA graphs, and replayed meanwhile."""
        refuse_recording(self.accelerator.device.type, self.accelerator.num_processes)
        networks = self.task.networks(self.learner.model, self.recipe)
        self.begin_training()
        x, *_ = self.task.prepare(next(iter(self.loader)), self.recipe)
        with recording(networks):
            for network in networks:
                with self.autocast(cache_enabled=False), torch.set_grad_enabled(network.training):
                    record_(network, x)
            yield

    def autocast(self, cache_enabled: bool = True) -> LearningInBf16:
        device = self.accelerator.device
        bf16 = trains_in_bf16(self.recipe.precision, device)
        return LearningInBf16(device, enabled=bf16, cache_enabled=cache_enabled)

    def epoch(self, number: int, progress: Progress | None) -> Epoch:
        """One pass over the training images, then one over those held out."""
        self.begin_training()
        started, data_seconds = time.perf_counter(), 0.0
        loss_sum, right, seen = 0.0, 0, 0
        knows_right, lr = False, 0.0
        batches, steps = iter(self.loader), len(self.loader)
        for step in range(steps):
            waiting = time.perf_counter()
            batch = self.task.prepare(next(batches), self.recipe)
            data_seconds += time.perf_counter() - waiting
            lr = float(self.learner.scheduler.get_last_lr()[0])
            gathered = step - step % self.recipe.accumulate  # so many before those of this step of the optimizer
            loss, answer = self.step(batch, min(self.recipe.accumulate, steps - gathered))
            if not math.isfinite(loss):
                raise InputError(
                    f"the loss is {loss} at step {step + 1} of epoch {number}: "
                    f"expected a finite one; try a lower {spelled('lr')} than {self.recipe.lr:g}"
                )
            loss_sum += loss * answer.images
            right, knows_right = right + (answer.right or 0), answer.right is not None
            seen += answer.images
            if progress:
                done, total = (number - 1) * steps + step + 1, self.recipe.epochs * steps
                progress("train", f"epoch {number}/{self.recipe.epochs}, loss {loss_sum / seen:.3f}", done, total)
        seconds = time.perf_counter() - started
        self.share_statistics()
        all_loss, all_right, images = self.over_all_processes([loss_sum, right, seen])
        return Epoch(
            epoch=number,
            images=int(images),
            train_loss=all_loss / images,
            train_top1=all_right / images if knows_right else None,
            lr=lr,
            seconds=seconds,
            data_share=data_seconds / seconds,
            **self.task.validate(self.validated, self.accelerator),
        )

    def over_all_processes(self, sums: list[float]) -> list[float]:
        """The sums of what the processes counted, exact for whole numbers."""
        mine = torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(mine, "sum").tolist()

    def share_statistics(self) -> None:
        """Give all processes the first one's BatchNorm statistics: each saw other images, and one network counts."""
        if self.accelerator.num_processes > 1:
            average = self.learner.average
            for buffer in (*self.learner.model.buffers(), *(average.module.buffers() if average else ())):
                buffer.copy_(broadcast(buffer))

    def step(self, batch: Any, group: int) -> tuple[float, Answer]:
        """One batch, and where enough are gathered a step of the optimizer; the loss and the answer before it.

        Args:
            group: Batches that are gathered for the step, fewer at the end of an epoch.
        """
        learner, accelerator = self.learner, self.accelerator
        with accelerator.accumulate(self.model):
            with self.autocast():
                answer = self.task.answer(self.model, batch)
            value = answer.loss.item()
            if math.isfinite(value):
                # The accelerator divides by the number of a whole group.
                accelerator.backward(answer.loss * (self.recipe.accumulate / group))
                learner.optimizer.step()
                learner.optimizer.zero_grad()
                if accelerator.sync_gradients:
                    learner.scheduler.step()
                    if learner.average is not None:
                        learner.average.update_parameters(learner.model)
        return value, answer

    @property
    def validated(self) -> nn.Module:
        """The network that counts: the average of the weights where there is one."""
        return self.learner.model if self.learner.average is None else self.learner.average.module


def memory_format_of(recipe: Recipe) -> torch.memory_format:
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


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
    """True if bf16 is asked for, or for "auto", if the processor computes in it."""
    return precision == "bf16" or (precision == "auto" and computes_in_bf16(device))
