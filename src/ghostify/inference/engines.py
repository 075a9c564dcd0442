"""Engines that run a network, each behind the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ghostify.errors import InputError, spelled
from ghostify.inference import worker
from ghostify.inference.process import Process

FILE_ENGINES = tuple(worker.ENGINES)
TORCH_ENGINES = ("eager", "compile")
ENGINES = (*TORCH_ENGINES, *FILE_ENGINES)
Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def check_engine(engine: str, known: Sequence[str] = ENGINES) -> None:
    """Refuse an engine that there is not.

    Example:
        >>> check_engine("tensorrt")
        Traceback (most recent call last):
        ghostify.errors.InputError: engine is 'tensorrt': expected one of eager, compile, onnxruntime, openvino
    """
    if engine not in known:
        raise InputError(f"{spelled('engine')} is {engine!r}: expected one of {', '.join(known)}")


def precisions_of(
    precision: Precision | tuple[Precision, Precision] | None, engine: str, example: Tensor
) -> tuple[Precision, Precision]:
    """The precision of each side.

    Raises:
        InputError: If one is unknown, or the engine does not have it.
    """
    if precision is None:
        precision = "bf16" if example.dtype == torch.bfloat16 else "fp32"
    pair = (precision, precision) if isinstance(precision, str) else precision
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(
            f"{spelled('precision')} is {precision!r}: expected one of {', '.join(PRECISIONS)}, or one for each side"
        )
    a, b = pair
    for each in (a, b):
        if each not in PRECISIONS:
            names = ", ".join(PRECISIONS)
            raise InputError(
                f"{spelled('precision')} is {each!r}: expected one of {names}, or one for each side, such as "
                '("fp32", "int8")'
            )
        if each == "int8" and engine not in FILE_ENGINES:
            raise InputError(f"{engine} has no int8: expected {spelled('engine')} to be {' or '.join(FILE_ENGINES)}")
    return a, b


def engine_version(engine: str) -> str:
    """The version of an engine's library.

    Raises:
        InputError: If there is no such engine.
        ModuleNotFoundError: If it is not installed.
    Example:
        >>> engine_version("eager") == torch.__version__
        True
    """
    check_engine(engine)
    return module_version(engine if engine in FILE_ENGINES else "torch")


def module_version(name: str) -> str:
    """The version in a module itself, whatever name it was installed under (as onnxruntime-gpu)."""
    return str(getattr(import_module(name), "__version__", "unknown"))


@dataclass(frozen=True)
class Operator:
    """An operator as an engine executed it.

    Args:
        name: Name of the node in the file, or the engine's own.
        kind: Its operation, and its kernel where the engine names that.
        times_ms: Milliseconds of each profiled call, or means of several calls where the engine has only these.
    """

    name: str
    kind: str
    times_ms: tuple[float, ...]


class FileRunner(Process):
    """An ONNX or OpenVINO file in its engine, in a process of its own; use it in a ``with``.

    Args:
        path: The file.
        engine: "onnxruntime" or "openvino".
        example: One batch, for whose shape the engine plans; None: for any batch.
        device: "cpu", or "cuda" where the engine's build has it.
        threads: CPU threads.
        profile: Prepare for ``operators``, which makes calls a little slower.
    Attributes:
        load_s: Seconds to read the file and plan.
        first_ms: Milliseconds of the first call, with an example.
        input_shape: Shape of the file's inputs, batch first; None for a size that is free.
    Raises:
        InputError: If the engine is unknown or not installed, or refuses the file, and in every method if its process
            died.
    """

    def __init__(
        self,
        path: str | Path,
        engine: str,
        example: Tensor | None = None,
        *,
        device: str = "cpu",
        threads: int = 1,
        bf16: bool = False,
        profile: bool = False,
    ) -> None:
        check_engine(engine, FILE_ENGINES)
        super().__init__(engine)
        try:
            found = self.ask(
                "open",
                engine=engine,
                path=str(Path(path).resolve()),
                example=None if example is None else self.stored("example", example),
                device=device,
                threads=threads,
                bf16=bf16,
                profile=profile,
            )
        except BaseException:
            self.close()
            raise
        self.load_s, self.first_ms = float(found["load_s"]), float(found["first_ms"])
        self.input_shape: tuple[int | None, ...] = tuple(found["shape"])

    def times_ms(self, calls: int) -> list[float]:
        """Milliseconds of each call."""
        found: list[float] = self.ask("time", calls=calls)
        return found

    def operators(self, calls: int) -> list[Operator]:
        """The operators that the engine executed, timed by its own clock."""
        return [Operator(row["name"], row["kind"], tuple(row["ms"])) for row in self.ask("profile", calls=calls)]

    def peak_memory_mb(self) -> float | None:
        """Megabytes (10⁶ bytes) that loading and calling took at their peak; None where the system does not say."""
        found: float | None = self.ask("memory")
        return found

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The network's outputs, in its order."""
        answer = Path(self.folder.name) / "outputs.npz"
        with self.lock:
            self.ask("run", inputs=self.stored("inputs", x), outputs=str(answer))
            with np.load(answer) as arrays:
                return [torch.from_numpy(arrays[name]) for name in arrays]


def undisturbed_ms(operators: Sequence[Operator]) -> float:
    """Milliseconds of a call, each operator taking the least time that it ever took.

    On a machine that is shared a whole call is never undisturbed, an operator sometimes is; what an engine does
    between operators is not in it.
    """
    return sum(min(operator.times_ms) for operator in operators)
