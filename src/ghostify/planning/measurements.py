"""Measurements for a plan, written to a file one by one, so that an interrupted plan goes on."""

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.atomic import replacing
from ghostify.errors import InputError


class Measurements:
    """Named results, one line each, appended as they are measured.

    Args:
        path: The file; None keeps them in memory only.
        about: Description of the subject; a file with another one is refused.
    Raises:
        InputError: If the file holds other measurements.
    """

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path is None:
            return
        head = json.dumps(about, sort_keys=True)
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            if not lines or lines[0] != head:
                raise InputError(f"{path} holds measurements of something else: choose another folder, or remove it")
            whole = []
            for line in lines[1:]:
                with suppress(ValueError, RecursionError):  # an interruption may have cut the last one
                    row = json.loads(line)
                    if isinstance(row, dict) and isinstance(row.get("kind"), str):
                        self.rows.append(row)
                        whole.append(line)
            with replacing(path) as temporary:
                temporary.write_text("\n".join([head, *whole]) + "\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + "\n")

    def add(self, kind: str, **result: Any) -> None:
        """Keep a result."""
        self.rows.append({"kind": kind, **result})
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The results of a kind, in their order."""
        return [row for row in self.rows if row["kind"] == kind]


def structure_of(model: nn.Module) -> str:
    """A digest of what a network prints, without addresses: the same weights may serve another function."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(model)).encode()).hexdigest()[:16]


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
