"""State dicts from files, loaded into the network that they are of."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.models.additions import put_back_by, without_additions
from ghostify.models.tensor_file import NamedTensors, read_tensors
from ghostify.wrappers import MARKS

logger = logging.getLogger(__name__)

# A counter of BatchNorm's that old files lack, and that changes no output.
COUNTER = "num_batches_tracked"
SHOWN = 3


class OtherHeadError(InputError):
    """Weights of which all fits but the last layer, which is not there or for another number of classes.

    Args:
        what: The fault, without what to do about it.
        classes: Outputs that the file has; None where it has no last layer.
    """

    def __init__(self, what: str, classes: int | None) -> None:
        build = "" if classes is None else f"build it for {classes}, or "
        super().__init__(f"{what}: {build}load all but the last layer, with a new head")
        self.what, self.classes = what, classes


def load_weights_(model: nn.Module, path: str | os.PathLike[str], *, new_head: bool = False) -> nn.Module:
    """Load a state dict into a network, strictly.

    Args:
        path: A file as trainers write them: safetensors, or what ``torch.save`` wrote with tensors, numbers and text
            alone; under which keys, and with which prefix before all names, is found. Of averaged weights and others
            that fit, the averaged ones are taken; that, and what is left out beside the prefix, is logged.
        new_head: Leave the last layer as it is, for other classes than the file's.
    Raises:
        InputError: If the file cannot be read, holds more than tensors, is of another network, or has NaN or infinite
            weights.
    """
    path, own = Path(path), model.state_dict(keep_vars=True)
    head = head_of(model)
    if new_head and head is None:
        raise InputError(f"{type(model).__name__} has no linear layer or convolution that could be a new head")
    match = best_match(path, read_tensors(path), own)
    stored = {id(tensor): match.state[name] for name, tensor in own.items() if name in match.state}
    state: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if new_head and name.startswith(f"{head}."):
            state[name] = tensor
        elif name in match.state:
            state[name] = match.state[name]
        elif id(tensor) in stored:  # one tensor under several names may be in the file once
            state[name] = stored[id(tensor)]
        elif name.endswith(COUNTER):
            state[name] = tensor
    refuse_other_names(path, model, match, state, own)
    refuse_other_shapes(path, model, state, own)
    refuse_other_numbers(path, state, own)
    model.load_state_dict(state)
    return model


def head_of(model: nn.Module) -> str | None:
    """Name of the last linear layer or convolution, which gives the logits; None where there is none."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None


@dataclass(frozen=True)
class Match:
    """Tensors of a file under the names that a network has for them.

    Args:
        source: The tensors as they are named in the file.
        prefix: Beginning of these names that the network's lack.
        state: Those that begin so, by the network's names; others by what follows the prefix.
        left_out: Names that begin otherwise.
        additions: Names of what a tool added.
    """

    source: NamedTensors
    prefix: str
    state: dict[str, Tensor]
    left_out: tuple[str, ...]
    additions: tuple[str, ...]


def best_match(path: Path, found: list[NamedTensors], own: Mapping[str, Tensor]) -> Match:
    """The tensors that most of the network's names are found among; of several, averaged ones, else the outermost."""
    names = {name for name in own if not name.endswith(COUNTER)}
    matches = [match for source in found for match in matches_of(source, own)]
    covered = [len(names & match.state.keys()) for match in matches]
    equal = [match for match, names in zip(matches, covered, strict=True) if names == max(covered)]
    chosen = max(equal, key=lambda match: match.source.averaged)
    others = {" of ".join(map(repr, reversed(match.source.keys))) for match in equal if match.source != chosen.source}
    if others and chosen.source.keys and max(covered):
        where = " of ".join(map(repr, reversed(chosen.source.keys)))
        logger.warning("%s: took the weights under %s, not those under %s", path, where, ", ".join(sorted(others)))
    if chosen.left_out:
        logger.warning(
            "%s: took the weights that begin with %r; left out: %d, such as %r",
            *(path, chosen.prefix, len(chosen.left_out), chosen.left_out[0]),
        )
    if chosen.additions:
        logger.warning("%s: left out what a tool added, such as %r", path, chosen.additions[0])
    return chosen


def matches_of(source: NamedTensors, own: Collection[str]) -> Iterator[Match]:
    """The tensors as they are named, and without the marks of wrappers in their names and in the network's."""
    for short in (str, unmarked):
        ours = {short(name): name for name in own}
        theirs = {short(name): name for name in source.tensors}
        if len(ours) < len(own) or len(theirs) < len(source.tensors):
            continue  # names that only the marks tell apart
        prefix = common_prefix(theirs, ours)
        state = {
            ours.get(inside, inside): source.tensors[name]
            for key, name in theirs.items()
            if key.startswith(prefix)
            for inside in [key.removeprefix(prefix)]
        }
        state, additions = without_additions(state, own)
        left_out = tuple(name for key, name in theirs.items() if not key.startswith(prefix))
        yield Match(source, prefix, state, left_out, tuple(additions))


def unmarked(name: str) -> str:
    """A tensor's name without what wrappers add to it.

    Example:
        >>> unmarked("module._orig_mod.features.module.0.weight")
        'features.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in MARKS)


def common_prefix(names: Collection[str], own: Collection[str]) -> str:
    """The beginning after which most of the names are the network's own; "" where none stands out.

    Example:
        >>> common_prefix(["net.a.weight", "net.a.bias", "loss.weight"], ["a.weight", "a.bias"])
        'net.'
    """
    votes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for begin in range(len(parts)):
            if ".".join(parts[begin:]) in own:
                votes["".join(f"{part}." for part in parts[:begin])] += 1
    best = [prefix for prefix, count in votes.items() if count == max(votes.values())]
    depth = min((prefix.count(".") for prefix in best), default=0)
    outermost = [prefix for prefix in best if prefix.count(".") == depth]
    return outermost[0] if len(outermost) == 1 else ""


def refuse_other_names(
    path: Path, model: nn.Module, match: Match, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    """Refuse a file that lacks some of the network's tensors, or has some that the network lacks."""
    missing = [name for name in own if name not in state]
    unexpected = [name for name in match.state if name not in own and not name.endswith(COUNTER)]
    odd = [f"lacks {listed(missing)}"] if missing else []
    odd += [f"has the unknown {listed(unexpected)}"] if unexpected else []
    if missing and not unexpected and all(name.startswith(f"{head_of(model)}.") for name in missing):
        raise OtherHeadError(f"{path} has no last layer for {type(model).__name__}, {listed(missing)}", None)
    if missing and (by := put_back_by(unexpected)):
        raise InputError(
            f"{path} has no weights of {type(model).__name__}, but what a layer computes them from, "
            f"{listed(unexpected)}: expected a file that is saved after {by} put them back"
        )
    if odd:
        raise InputError(
            f"{path} is of another network than {type(model).__name__}: it {' and '.join(odd)} "
            f"({len(missing)} missing, {len(unexpected)} unknown of {len(own)})"
        )


def refuse_other_shapes(path: Path, model: nn.Module, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other shapes; those of another number of classes alone with what they are."""
    odd = [name for name in own if state[name].shape != own[name].shape]
    if not odd:
        return
    # One number in place of another in front of each: weights and biases of the last layer, and of heads beside it.
    sizes = {(*state[name].shape[:1], *own[name].shape[:1]) for name in odd}
    only_first = all(state[name].shape[1:] == own[name].shape[1:] for name in odd)
    if only_first and len(sizes) == 1 and f"{head_of(model)}.weight" in odd:
        classes, outputs = sizes.pop()
        raise OtherHeadError(
            f"{path} is for {classes} classes, and the network for {outputs} (its last layer, {head_of(model)})",
            classes,
        )
    shapes = [f"{name} is {list(state[name].shape)}, expected {list(own[name].shape)}" for name in odd[:SHOWN]]
    more = f", and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
    raise InputError(f"{path} is of another network than {type(model).__name__}: {', '.join(shapes)}{more}")


def refuse_other_numbers(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse tensors of another sort of numbers, and numbers that are none.

    A mask may be infinite where a new network's is.
    """
    for name, tensor in state.items():
        kinds = [(one.is_floating_point(), one.is_complex(), one.layout) for one in (tensor, own[name])]
        if tensor.is_quantized or tensor.is_meta or (kinds[0] != kinds[1] and not name.endswith(COUNTER)):
            what = "nothing but a shape" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
            raise InputError(f"{path}: {name} holds {what}: expected {own[name].dtype}, {own[name].layout}")
        bad = ~torch.isfinite(tensor.to(own[name].dtype))  # in which a number may be too large, too
        if not isinstance(own[name], nn.Parameter):
            bad &= torch.isfinite(own[name].to(tensor.device))
        if bad.any():
            raise InputError(
                f"{path}: {int(bad.sum())} of the {bad.numel()} numbers of {name} are NaN or infinite: "
                "expected weights of a training that did not diverge, such as an earlier checkpoint"
            )


def listed(names: list[str]) -> str:
    """The first of some names, in words."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(map(repr, names[:SHOWN]))}{more}"
