"""A process that imports an engine and nothing of ours, and answers questions."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor

from ghostify.errors import InputError, first_sentence
from ghostify.inference import worker

ENDING_S = 10  # for which a process that no longer answers is awaited, seconds


class Process:
    """A worker (``worker.py``) that is asked one question after the other; use it in a ``with``.

    Args:
        engine: Its name in messages.
        does: Its work on networks, as a verb, in messages.
    Attributes:
        lock: Held by a thread from what it stores for a question to what it reads of the answer.
    """

    def __init__(self, engine: str, does: str = "run") -> None:
        self.engine, self.does = engine, does
        self.lock, self.owner = threading.RLock(), os.getpid()
        self.folder = TemporaryDirectory()
        # Engines write of files that they cannot read in their own way, and say the same in their answer.
        with open(Path(self.folder.name) / "stderr", "wb") as unread:
            # -P: the worker's neighbours must not be found where the engine imports something of their name.
            self.process = subprocess.Popen(
                [sys.executable, "-P", worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=unread,
                text=True,
            )

    @property
    def answers(self) -> bool:
        """True unless it died, or belongs to the process that this one was forked from."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, question: str, **details: Any) -> Any:
        """The answer to a question.

        Raises:
            InputError: If the engine refuses, or the process died.
        """
        with self.lock:
            line = self.line_for(json.dumps({"ask": question, **details}))
        if not line.endswith("\n"):  # none, or one that was begun
            raise InputError(f"the process of {self.engine} died: {self.ending()}")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(f"{self.engine} cannot {self.does} the network: {first_sentence(answer['error'])}")
        return answer["answer"]

    def line_for(self, question: str) -> str:
        """The line that answers a line; less than a line where the process died."""
        if self.owner != os.getpid():
            raise InputError(f"the process of {self.engine} belongs to another process: open the file in this one")
        stdin, stdout = pipes(self.process)
        self.send("SIGCONT")
        try:
            stdin.write(question + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:  # a broken pipe
            return ""
        except BaseException:  # whoever asked was interrupted: the answer must not be taken for that of the next one
            self.process.kill()
            raise
        # An engine's threads go on looking for work when there is none, on cores that another may be timed on.
        self.send("SIGSTOP")
        return line

    def stored(self, name: str, x: Tensor) -> str:
        """The path of a file with an array, which the process reads."""
        path = Path(self.folder.name) / f"{name}.npy"
        x = x.detach().cpu()
        np.save(path, (x.float() if x.dtype == torch.bfloat16 else x).numpy())  # NumPy has no bfloat16
        return str(path)

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
