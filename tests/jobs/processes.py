"""Processes that begin at once: each is a fork of a server that has imported the library and done nothing."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from torch.distributed import TCPStore

CONTEXT = multiprocessing.get_context("forkserver")
# What the trainings import, so that it is imported once for all of them.
CONTEXT.set_forkserver_preload(["ghostify.cli", "ghostify.jobs.detect", "ghostify.jobs.train"])


def begun(function: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """A process that calls a function of a module; its exit code is what that returns."""
    process = CONTEXT.Process(target=exit_with, args=(function, *arguments))
    process.start()
    return process


def together(number: int, function: Callable[..., Any], *arguments: Any) -> list[int | None]:
    """Call a function in so many processes that belong together, as torchrun starts them; their exit codes."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # on a port that is free
    processes = [begun(as_one_of, number, rank, store.port, function, *arguments) for rank in range(number)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def as_one_of(number: int, rank: int, port: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with torchrun's environment."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in numbers.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return function(*arguments)


def exit_with(function: Callable[..., Any], *arguments: Any) -> None:
    torch.set_num_threads(1)  # processes that each take every core wait for each other
    raise SystemExit(function(*arguments))
