"""The folder of a training: its settings, what happened in it, its best and its last weights."""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from ghostify.atomic import replacing
from ghostify.errors import InputError
from ghostify.jobs.checkpoint import Epoch
from ghostify.measure.environment import describe_environment
from ghostify.network_file import save

CHECKPOINT, NETWORK, BEST = "checkpoint.pt", "network.safetensors", "best.safetensors"
SETTINGS, LOG, HISTORY, BOARD = "settings.json", "log.csv", "history.json", "tensorboard"

FILES = (CHECKPOINT, SETTINGS, LOG, BEST, NETWORK, HISTORY, f"{BOARD}/")


@dataclass(frozen=True)
class TrainingFolder:
    """Where a training writes. Every file is replaced whole.

    Args:
        path: The folder: ``settings.json``, ``log.csv``, ``checkpoint.pt``, and once something is held out
            ``best.safetensors``, the network of the epoch that was best there.
        preprocessing: Facts about the images that users of the networks must know.
        tensorboard: Log to ``tensorboard/``, too.
    """

    path: Path
    preprocessing: Mapping[str, Any]
    tensorboard: bool = False

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    def begin(self, settings: Mapping[str, Any], device: str) -> None:
        """Write down what is asked for, with versions and machine, unless the training goes on."""
        if self.tensorboard:
            writer_class()  # refused before anything is trained
        if not (self.checkpoint.exists() and (self.path / SETTINGS).exists()):
            self.write_json(SETTINGS, {**settings, "environment": describe_environment(device)})

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Take back what ``begin`` wrote where images or networks are refused before there is a checkpoint."""
        try:
            yield
        except InputError:
            if not self.checkpoint.exists():
                (self.path / SETTINGS).unlink(missing_ok=True)
                with suppress(OSError):  # other files are in it
                    self.path.rmdir()
            raise

    def after_epoch(self, history: list[Epoch], network: nn.Module) -> None:
        """Log the last epoch, and keep its network if it is the best."""
        rows = [asdict(epoch) | {"images_per_second": round(epoch.images_per_second, 2)} for epoch in history]
        with replacing(self.path / LOG) as temporary, temporary.open("w", newline="") as file:
            columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        if best_epoch(history) == history[-1].epoch:
            save(network, self.path / BEST, extra={**self.preprocessing, "epoch": history[-1].epoch})
        if self.tensorboard:
            with writer_class()(str(self.path / BOARD)) as board:
                for name, value in rows[-1].items():
                    if name != "epoch" and value is not None:
                        board.add_scalar(name, value, history[-1].epoch)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n")


def best_epoch(history: list[Epoch]) -> int | None:
    """The first epoch that was best on what is held out; None where nothing is held out."""
    judged = [epoch for epoch in history if epoch.score is not None]
    return max(judged, key=lambda epoch: (epoch.score or 0.0, -epoch.epoch)).epoch if judged else None


def writer_class() -> Any:
    """TensorBoard's, an extra that few have.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    return import_module("torch.utils.tensorboard").SummaryWriter
