"""A training that is killed again and again, and one that is not: are they the same?

    python tests/jobs/killing.py --kills 20

Half of the kills come at a random moment, half amid the writing of a checkpoint. Each time the training is resumed; at
the end every tensor of its checkpoint is compared with the undisturbed one's, byte by byte.
"""

import argparse
import csv
import os
import random
import signal
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import processes
import torch

from ghostify.cli import main as ghostify
from ghostify.jobs import checkpoint

EPOCHS_PER_KILL = 12
LONGEST_LIFE = 1 / 3  # of a kill's share of the whole training: on a machine that gets faster it must not end before


def train_whole(data: Path, out: Path, kills: int) -> float:
    """Train undisturbed; for how many seconds."""
    process, begun = start(data, out, kills), time.perf_counter()
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - begun


def train_killed(data: Path, out: Path, kills: int, seconds: float, seed: int = 0) -> list[str]:
    """Train with so many deaths what takes so many seconds undisturbed; how each came."""
    chance, deaths = random.Random(seed), []
    for number in range(kills):
        amid_checkpoint = chance.randint(1, 5) if number % 2 else 0
        process = start(data, out, kills, amid_checkpoint)
        if not amid_checkpoint:
            time.sleep(chance.uniform(0, LONGEST_LIFE * seconds / kills))
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the training ended before it was killed: it wants more epochs"
        deaths.append("amid a checkpoint" if amid_checkpoint else "at random")
    train_whole(data, out, kills)
    return deaths


def start(data: Path, out: Path, kills: int, amid_checkpoint: int = 0) -> BaseProcess:
    """The training in a process of its own, from when it is about to begin."""
    heard, tell = processes.CONTEXT.Pipe(duplex=False)
    process = processes.begun(train_here, data, out, EPOCHS_PER_KILL * kills, amid_checkpoint, tell)
    assert heard.recv() == "about to begin"
    return process


def train_here(data: Path, out: Path, epochs: int, amid_checkpoint: int, tell: Connection) -> int:
    """What the process does; it dies within its n-th checkpoint, half of which is then written."""
    whole_save, left = checkpoint.torch.save, amid_checkpoint

    def half_save(state: Any, file: Any) -> None:
        nonlocal left
        left -= 1
        whole_save(state, file)
        if left == 0:
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.torch.save = half_save
    tell.send("about to begin")
    settings = ["--epochs", str(epochs), "--batch-size", "16", "--lr", "0.02", "--ema", "0.1", "--hold-out", "0.2"]
    where = ["--data", f"npz:{data}", "--device", "cpu", "--out", str(out), "--resume"]
    return ghostify(["train", "tiny:Tiny", *settings, *where, "--json"])


def differences(a: Path, b: Path) -> list[str]:
    """What differs between two trainings' checkpoints and logs, but for their times."""
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (a, b)]
    tensors = [dict(flat("", state)) for state in states]
    if tensors[0].keys() != tensors[1].keys() or not tensors[0]:
        return ["the checkpoints hold other tensors"]
    found = [name for name, tensor in tensors[0].items() if not same_bytes(tensor, tensors[1][name])]
    logs = []
    for folder in (a, b):
        with (folder / "log.csv").open(newline="") as file:
            logs.append([without_times(row) for row in csv.DictReader(file)])
    return found + (["log.csv"] if logs[0] != logs[1] else [])


def flat(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(f"{name}.{key}", part)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def without_times(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in ("seconds", "data_share", "images_per_second")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1]))  # where `tiny` lies
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    pixels = rng.integers(0, 255, (90, 12, 12, 3)).astype(np.uint8)
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "some.npz", x_train=pixels, y_train=labels, x_test=pixels[:9], y_test=labels[:9])
        seconds = train_whole(folder / "some.npz", folder / "whole", arguments.kills)
        deaths = train_killed(folder / "some.npz", folder / "killed", arguments.kills, seconds, arguments.seed)
        different = differences(folder / "whole", folder / "killed")
    counted = ", ".join(f"{deaths.count(way)} {way}" for way in dict.fromkeys(deaths))
    print(f"{len(deaths)} kills ({counted}): {'different: ' + ', '.join(different) if different else 'no difference'}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
