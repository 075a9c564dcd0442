"""Engines that run a network, each behind the same questions."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor

from ghostify.errors import InputError, first_sentence, spelled
from ghostify.inference import worker

FILE_ENGINES = tuple(worker.ENGINES)
ENGINES = ("eager", "compile", *FILE_ENGINES)
ENDING_S = 10  # for which a process that no longer answers is awaited, seconds


def check_engine(engine: str, known: Sequence[str] = ENGINES) -> None:
    """Refuse an engine that there is not.

    Example:
        >>> check_engine("tensorrt")
        Traceback (most recent call last):
        ghostify.errors.InputError: engine is 'tensorrt': expected one of eager, compile, onnxruntime, openvino
    """
    if engine not in known:
        raise InputError(f"{spelled('engine')} is {engine!r}: expected one of {', '.join(known)}")


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


class FileRunner:
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
        self.engine = engine
        self.folder = TemporaryDirectory()
        # -P: this file's neighbours must not be found where the engine imports something of their name.
        self.process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
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
        self.ask("run", inputs=self.stored("inputs", x), outputs=str(answer))
        with np.load(answer) as arrays:
            return [torch.from_numpy(arrays[name]) for name in arrays]

    def stored(self, name: str, x: Tensor) -> str:
        path = Path(self.folder.name) / f"{name}.npy"
        x = x.detach().cpu()
        np.save(path, (x.float() if x.dtype == torch.bfloat16 else x).numpy())  # NumPy has no bfloat16
        return str(path)

    def ask(self, question: str, **details: Any) -> Any:
        stdin, stdout = pipes(self.process)
        self.send("SIGCONT")
        try:
            stdin.write(json.dumps({"ask": question, **details}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:  # a broken pipe
            line = ""
        if not line.endswith("\n"):  # none, or one that was begun
            raise InputError(f"the process of {self.engine} died: {self.ending()}")
        # An engine's threads go on looking for work when there is none, on cores that another may be timed on.
        self.send("SIGSTOP")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(f"{self.engine} cannot run the network: {first_sentence(answer['error'])}")
        return answer["answer"]

    def send(self, name: str) -> None:
        """Send the process a signal, where the system has it."""
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))

    def ending(self) -> str:
        """With which status the process ended, and by which signal."""
        try:
            status = self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:  # it closed its pipes and goes on
            self.process.kill()
            status = self.process.wait()
        names = {-number: f", {number.name}" for number in signal.Signals}
        return f"exit status {status}{names.get(status, '')}"

    def close(self) -> None:
        for pipe in pipes(self.process):
            with suppress(OSError):  # a question is left that a dead process did not take
                pipe.close()
        self.process.kill()  # stopped or in the middle of a question: there is nothing that it must finish
        self.process.wait()
        self.folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def undisturbed_ms(operators: Sequence[Operator]) -> float:
    """Milliseconds of a call, each operator taking the least time that it ever took.

    On a machine that is shared a whole call is never undisturbed, an operator sometimes is; what an engine does
    between operators is not in it.
    """
    return sum(min(operator.times_ms) for operator in operators)
