"""How to train: every setting of a training, in one frozen place."""

import math
from dataclasses import dataclass

from ghostify.errors import InputError, spelled

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "steps", "thirds", "1x")
PRECISIONS = ("auto", "fp32", "bf16")
LAST_SEED = 2**32 - 1  # NumPy takes no more; an epoch's is a million times as large, within PyTorch's 64 bits
MOST_REMEMBERED = 0.5  # a moving average that remembers more holds weights that hardly knew anything yet


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per forward pass and process.
        accumulate: Forward passes whose gradients make one step of the optimizer.
        optimizer: "sgd" (momentum 0.9, Nesterov) or "adamw".
        lr: Peak learning rate.
        lr_batch_size: Images per step that ``lr`` is for: it grows and shrinks with batch size, accumulation and
            processes (Goyal et al. 2017, arXiv:1706.02677); 0 leaves it as it is.
        weight_decay: Decay of weights; biases and BatchNorm have none.
        schedule: "cosine" down to 0, or a tenth after 50 %, 75 % and 94 % of the epochs ("steps"), after each third
            ("thirds"), or as detectors learn, after 8 and 11 twelfths ("1x").
        warmup_epochs: Epochs, or parts of one, of linear rise from 0.
        label_smoothing: Share of the target spread over all classes.
        ema: Share of all steps that the moving average of the weights and of BatchNorm's statistics remembers, such as
            0.02 (a decay of 0.9999 in 500,000 steps): so it suits any number of epochs. The average is what is
            validated and what the training ends with. 0 for none.
        augment: Random crops, and mirror images where the data set allows.
        color_jitter: How far brightness, contrast and saturation are changed at random, 0 to 1; of a folder's images.
        rand_augment: Change each image of a folder by two of RandAugment's operations (Cubuk et al. 2019,
            arXiv:1909.13719).
        precision: "fp32", "bf16" (autocast), or "auto": bf16 where the processor computes in it.
        channels_last: Memory order of the maps.
        cuda_graph: Record a step's work on a GPU once and replay it, which is faster where the network is small; of
            one process that classifies, and of networks that compute the same whatever the input's values.
        freeze_norm: Hold BatchNorm's statistics, as for a trained network that has them folded away; of a detector the
            backbone's.
        seed: Seed of weights, order and augmentation, 0 to 4,294,967,295.
    """

    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_batch_size: int = 0
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    augment: bool = True
    color_jitter: float = 0.0
    rand_augment: bool = False
    precision: str = "auto"
    channels_last: bool = True
    cuda_graph: bool = False
    freeze_norm: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{spelled(name)} is {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        for name, (known, right) in self.bounds().items():
            if not known:
                raise InputError(f"{spelled(name)} is {getattr(self, name)}: expected {right}")

    def bounds(self) -> dict[str, tuple[bool, str]]:
        """For each number whether it is one to train by, and which are."""
        return {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "accumulate": (self.accumulate >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "lr_batch_size": (self.lr_batch_size >= 0, "at least 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number of at least 0"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "a number of at least 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "ema": (0 <= self.ema <= MOST_REMEMBERED, f"0 to {MOST_REMEMBERED:g} of the steps, such as 0.02"),
            "color_jitter": (0 <= self.color_jitter <= 1, "0 to 1"),
            "seed": (0 <= self.seed <= LAST_SEED, f"0 to {LAST_SEED}"),
        }

    def ema_decay(self, steps: int) -> float:
        """The part of the moving average that each of so many steps keeps.

        Example:
            >>> round(Recipe(ema=0.02).ema_decay(steps=500_000), 6)
            0.9999
        """
        return 1 - 1 / max(1.0, self.ema * steps)

    def peak_lr(self, processes: int = 1) -> float:
        """The learning rate for so many processes.

        Example:
            >>> Recipe(batch_size=64, accumulate=2, lr=0.1, lr_batch_size=256).peak_lr(processes=4)
            0.2
        """
        if not self.lr_batch_size:
            return self.lr
        return self.lr * self.batch_size * self.accumulate * processes / self.lr_batch_size
