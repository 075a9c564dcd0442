"""Named tensors in a file that somebody's training wrote, found without running code from it."""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from ghostify.errors import InputError

DEEPEST, SHOWN = 6, 8
# How torch.load names what it does not run.
UNSAFE = re.compile(r"(?:GLOBAL|class) '?([\w.]+)")
# Words of the keys under which trainers keep averaged weights, the ones that they publish.
AVERAGES = ("ema", "averaged", "swa")


@dataclass(frozen=True)
class NamedTensors:
    """Tensors by name, and the keys that lead to them in their file.

    Args:
        keys: From the outside in; () where the file holds nothing else.
        tensors: Tensors by name.
    """

    keys: tuple[str, ...]
    tensors: dict[str, Tensor]

    @property
    def averaged(self) -> bool:
        """True where a key says that the tensors are averages over the steps of a training."""
        return any(word in re.split(r"[^a-z]", key.lower()) for key in self.keys for word in AVERAGES)


def read_tensors(path: Path) -> list[NamedTensors]:
    """All mappings of names to tensors in a file, whatever its ending.

    Args:
        path: safetensors, or what ``torch.save`` writes: of that all but tensors, numbers and text is refused.
    Raises:
        InputError: If the file is not there, empty, of another kind, holds objects of other classes, or no tensors.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"{path} {what}: expected a file of weights")
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise InputError(f"{path} is empty: expected a file of weights")
    content = read_safetensors(path) if start.endswith(b"{") and len(start) == 9 else read_torch_file(path)
    found = list(mappings_in(content))
    if not found:
        raise InputError(f"{path} holds no state dict: expected tensors by name, found {contents(content)}")
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as safetensors: it is cut short or of another kind") from error


def read_torch_file(path: Path) -> Any:
    """The content of a file of ``torch.save``, in its present or its former format."""
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:  # opened: it goes by a path's ending
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a spoilt file makes the reader fail in any way
        classes = classes_in(path, error)
        if classes:
            raise InputError(f"{path} {beside(classes)}") from error
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a program of TorchScript: save the state dict alone, torch.save(program.state_dict(), FILE)"
            ) from error
        raise InputError(
            f"{path} cannot be read as weights: it is cut short or of another kind; expected a state dict, as "
            ".safetensors or by torch.save"
        ) from error


def written_by_torch(path: Path) -> bool:
    """True for a file that begins as what ``torch.save`` writes, an archive or a pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def classes_in(path: Path, error: Exception) -> list[str]:
    """The classes and functions that the file asks for and that are not run for it; none is imported here."""
    try:
        with path.open("rb") as file:
            return sorted(get_unsafe_globals_in_checkpoint(file))
    except Exception:  # noqa: BLE001  # of the former format, or spoilt; then the first one that was met is known
        return UNSAFE.findall(str(error).rpartition("WeightsUnpickler error: ")[2])[:1]


def beside(classes: list[str]) -> str:
    """The other things than tensors that a file holds, and what to do about it, in words."""
    whole = any(name.startswith("torch.nn.modules.") for name in classes)
    own = [name for name in classes if not name.startswith("torch.nn.modules.")] or classes
    what = "holds a whole network with its code" if whole else "holds more than tensors"
    more = f" and {len(own) - 3} more" if len(own) > 3 else ""
    return (
        f"{what} ({', '.join(own[:3])}{more}), and is not opened, as that would run code: where you trust it, save its "
        "state dict alone, such as by torch.save(model.state_dict(), FILE)"
    )


def mappings_in(content: Any) -> Iterator[NamedTensors]:
    """The mappings of names to tensors within mappings and lists, the outer ones first; each once."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), content)] if is_container(content) else []
    for _ in range(DEEPEST):
        inside: list[tuple[tuple[str, ...], Any]] = []
        for keys, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
            tensors = {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, Tensor)}
            if tensors:
                yield NamedTensors(keys, tensors)
            inside += [((*keys, str(key)), one) for key, one in items if is_container(one)]
        level = inside


def is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def contents(content: Any) -> str:
    """The keys of a mapping, or the kind of what is none, in words."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    keys = [repr(key)[:60] for key in content]
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"the keys {', '.join(keys[:SHOWN])}{more}" if keys else "nothing"
