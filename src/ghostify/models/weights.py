"""State dicts from files, without running code from them."""

import os
import pickle
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ghostify.errors import InputError, offered, spelled

PICKLES = frozenset({".pt", ".pth", ".th"})


def load_weights_(model: nn.Module, path: str | os.PathLike[str], *, new_head: bool = False) -> nn.Module:
    """Load a state dict into a network, strictly.

    Args:
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.th`` with plain tensors; a ``state_dict`` key around them and
            a ``module.`` prefix that the network's own names lack are taken off.
        new_head: Leave the last layer as it is, for other classes than the file's.
    Raises:
        InputError: If the file cannot be read, holds more than tensors, or is of another network.
    """
    own = model.state_dict()
    state = read_state_dict(Path(path), own)
    # A counter that old files lack and that PyTorch, too, does without.
    state = {key: own[key] for key in own if key.endswith("num_batches_tracked")} | state
    head = head_of(model)
    if new_head:
        if head is None:
            raise InputError(f"{type(model).__name__} has no linear layer or convolution that could be a new head")
        state |= {key: tensor for key, tensor in own.items() if key.startswith(f"{head}.")}
    missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
    if missing or unexpected:
        odd = [f"no {missing[0]!r}"] if missing else []
        odd += [f"an unknown {unexpected[0]!r}"] if unexpected else []
        raise InputError(
            f"{path} is of another network than {type(model).__name__}: it has {' and '.join(odd)} "
            f"({len(missing)} missing, {len(unexpected)} unknown of {len(own)})"
        )
    for key, tensor in own.items():
        if state[key].shape != tensor.shape:
            raise InputError(
                f"{path} is of another network than {type(model).__name__}: {key} is {list(state[key].shape)}, "
                f"expected {list(tensor.shape)}"
                + (
                    f" (a new head leaves the last layer out, for other classes: {spelled('new_head', True)})"
                    if key.startswith(f"{head}.") and offered("new_head")
                    else ""
                )
            )
    model.load_state_dict(state)
    return model


def head_of(model: nn.Module) -> str | None:
    """Name of the last linear layer or convolution, which gives the logits; None where there is none."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None


def read_state_dict(path: Path, own: Container[str] = ()) -> dict[str, Tensor]:
    """The tensors of a file by name, unwrapped.

    Args:
        path: The file.
        own: Names of the network's tensors; a file with these very names has no prefix to be taken off.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there: expected a file of weights")
    if path.suffix not in {".safetensors", *PICKLES}:
        raise InputError(f"{path}: expected weights as .safetensors, .pt, .pth or .th")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, or is cut short, and is not opened: expected a plain state dict"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as weights: it is cut short or of another kind") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no state dict: expected tensors by name")
    state = {str(key): tensor for key, tensor in content.items()}
    if all(key in own for key in state):
        return state
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}
