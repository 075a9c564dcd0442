"""Device, processes and random numbers of one training; none of them outlives it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from ghostify.errors import InputError, spelled

DEVICES = ("cpu", "cuda")


def chosen_device(device: str) -> str:
    """The device itself, or for "auto" the GPU where there is one.

    Raises:
        InputError: If it is unknown or not there.
    """
    there = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if there else "cpu"
    if device not in DEVICES:
        raise InputError(f"{spelled('device')} is {device!r}: expected auto, {' or '.join(DEVICES)}")
    if device == "cuda" and not there:
        raise InputError(f"{spelled('device')} is 'cuda', and there is no CUDA device here: expected 'cpu'")
    return device


@contextmanager
def accelerator_on(device: str, accumulate: int = 1) -> Iterator[Accelerator]:
    """Set accelerate up for one training, and let the next one choose another device.

    Accelerate keeps the first device that was asked for until the process ends, and takes the CPU where there is no
    GPU, both without a word.

    Args:
        device: "cpu" or "cuda".
        accumulate: Batches whose gradients make one step.
    Raises:
        InputError: If the device is unknown or not there, or other code of this process has set up accelerate on
            another one.
    """
    if device not in DEVICES:
        raise InputError(f"{spelled('device')} is {device!r}: expected {' or '.join(DEVICES)}")
    ours = PartialState._shared_state == {}
    if not ours and PartialState().device.type != device:
        raise InputError(
            f"{spelled('device')} is {device!r}, but this process has set up accelerate "
            f"on {PartialState().device.type}: expected the same device, or a process of its own"
        )
    try:
        accelerator = Accelerator(cpu=device == "cpu", gradient_accumulation_steps=accumulate)
        if accelerator.device.type != device:
            raise InputError(
                f"{spelled('device')} is {device!r}: expected one that is there, such as {accelerator.device.type}"
            )
        yield accelerator
    finally:
        if ours:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Give back at the end the random state of the CPU, and of a GPU where one is used."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        yield


def seed_(number: int, device: torch.device) -> None:
    """Seed the CPU and a device, but unlike ``torch.manual_seed`` no other GPU."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
