"""A training from its settings to its score, written to a folder where there is one."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from ghostify.jobs.checkpoint import Epoch
from ghostify.jobs.learn import AfterEpoch
from ghostify.jobs.training_folder import HISTORY, NETWORK, TrainingFolder
from ghostify.measure.environment import describe_environment
from ghostify.network_file import save
from ghostify.progress import first_process

S = TypeVar("S")


@dataclass(frozen=True)
class Training(Generic[S]):
    """The outcome of a training.

    Args:
        history: One entry per epoch, those before a resume included.
        score: The result on the images for the final figure, with the last weights; None where another process of
            torchrun's scores.
        record: Settings, history, score and environment as JSON values, as ``history.json`` has them; empty as above.
        file: The network's file; None where nothing is written.
    """

    history: list[Epoch]
    score: S | None = None
    record: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None


def scored_training(
    model: nn.Module,
    learn: Callable[[AfterEpoch | None], list[Epoch]],
    score: Callable[[], S],
    numbers: Callable[[S], Mapping[str, Any]],
    *,
    folder: TrainingFolder | None,
    settings: Mapping[str, Any],
    device: str,
) -> Training[S]:
    """Train a network in place, score it, and write all that to a folder where there is one.

    Args:
        learn: Trains it.
        score: Scores it.
        numbers: Makes JSON values of a score.
        folder: Gets the network of the best epoch and of the last, log and history.
        settings: JSON values for the record.
        device: Described in it.
    """
    if folder is not None and first_process():
        folder.begin(settings, device)
    started = time.perf_counter()
    with folder.unless_refused() if folder is not None else nullcontext():
        history = learn(None if folder is None else folder.after_epoch)
    seconds = time.perf_counter() - started
    if not first_process():
        return Training(history)
    file = None if folder is None else folder.path / NETWORK
    if folder is not None and file is not None:  # before it is scored, which may take long
        save(model, file, extra=folder.preprocessing)
    found = score()
    record = {
        **settings,
        "history": [asdict(epoch) for epoch in history],
        "seconds": round(seconds, 1),
        **numbers(found),
        "environment": describe_environment(device),
        "out": None if file is None else str(file),
    }
    if folder is not None:
        folder.write_json(HISTORY, record)
    return Training(history, found, record, file)
