"""All kinds of changes by their names, and changes as rows of JSON."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from ghostify.changes.change import Change
from ghostify.changes.depthwise import DepthwiseGhosts
from ghostify.changes.keep import Keep
from ghostify.changes.merge import MergeInputs
from ghostify.changes.one_convolution import OneConvolution
from ghostify.changes.pointwise import PointwiseGhosts
from ghostify.changes.prune import Prune
from ghostify.errors import InputError

KINDS: dict[str, type[Change]] = {}

C = TypeVar("C", bound=Change)


def register(change: type[C]) -> type[C]:
    """Make a kind of change known to plans, plan files and network files; plans offer kinds in this order."""
    KINDS[change.kind] = change
    return change


for _change in (Keep, Prune, PointwiseGhosts, DepthwiseGhosts, MergeInputs, OneConvolution):
    register(_change)


def kinds_of(base: type) -> tuple[type[Change], ...]:
    """The registered kinds that are subclasses of ``base``."""
    return tuple(kind for kind in KINDS.values() if issubclass(kind, base))


def change_row(change: Change) -> dict[str, Any]:
    """A change's kind and numbers, in JSON's types."""
    return {"kind": change.kind, **dataclasses.asdict(change)}  # type: ignore[call-overload]  # every kind is a dataclass


def change_from(row: Any, base: type) -> Any:
    """The change that a row describes.

    Args:
        base: ``OutputChange``, ``InputChange``, ``BlockChange`` or ``Change``.
    Raises:
        InputError: If it describes none.
    """
    kinds = {name: kind for name, kind in KINDS.items() if issubclass(kind, base)}
    if not isinstance(row, Mapping) or not isinstance(row.get("kind"), str) or row["kind"] not in kinds:
        raise InputError(f"{row!r}: expected a 'kind' of {', '.join(map(repr, kinds))}, and its numbers")
    numbers = {name: value for name, value in row.items() if name != "kind"}
    for name, value in numbers.items():
        if type(value) is not int:
            raise InputError(f"{name} is {value!r}: expected a whole number")
    try:
        return kinds[row["kind"]](**numbers)
    except TypeError as error:
        fields = [field.name for field in dataclasses.fields(kinds[row["kind"]])]  # type: ignore[arg-type]  # every kind is a dataclass
        raise InputError(f"{dict(row)}: expected the numbers {', '.join(fields)}") from error


def described_layers() -> dict[type[nn.Module], Callable[[Any], dict[str, Any]]]:
    """The layers that changes put into networks, and the arguments that make each of them again."""
    return {layer: arguments for kind in KINDS.values() for layer, arguments in kind.layers.items()}
