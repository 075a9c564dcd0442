"""The way to build a network again: its origin, and the layers that replace the origin's."""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torchvision
from accelerate import init_empty_weights
from torch import Tensor, nn

from ghostify.changes.registry import described_layers
from ghostify.errors import InputError, first_sentence
from ghostify.layers import PaddedConv2d
from ghostify.layers.arguments import conv_arguments, linear_arguments, norm_arguments
from ghostify.models.registry import Origin, known_origin, remember_origin
from ghostify.modes import random_numbers_kept
from ghostify.structure.channels import NUMBERS, put_
from ghostify.structure.surgery import module_names, replace_modules_

# What every module has, and how deep tensors are looked for in lists, tuples and mappings.
OF_EVERY_MODULE, DEPTH = frozenset(vars(nn.Module())), 3
NARROWED = "narrowed"  # in the place of a layer's kind: the origin's own module, with fewer rows
# The layers that pruning changes, and the arguments that make each again; those that other changes put in, they know.
PRUNED: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.Conv2d: conv_arguments,
    PaddedConv2d: conv_arguments,
    nn.Linear: linear_arguments,
    nn.BatchNorm2d: norm_arguments,
}


def known_layers() -> dict[type[nn.Module], Callable[[Any], dict[str, Any]]]:
    """The layers in which a network may differ from its origin, and the arguments that make each again."""
    return PRUNED | described_layers()


@dataclass(frozen=True)
class Blueprint:
    """The way to build a network: an origin, and the layers that replace the origin's.

    Args:
        origin: Builder and options.
        replaced: Module name → kind and arguments of the new layer, or how the origin's own has been narrowed.
        held: Names of tensors that are no parameters and no buffers, see ``held_tensors``.
    """

    origin: Origin
    replaced: dict[str, dict[str, Any]]
    held: frozenset[str] = frozenset()

    def build(self) -> nn.Module:
        """The network with random weights."""
        model = self.origin.build()
        modules = dict(model.named_modules(remove_duplicate=False))
        try:
            for name, row in self.replaced.items():
                if row["kind"] == NARROWED:
                    narrow_(modules[name], row)
            replacements = {
                modules[name]: make_layer(row) for name, row in self.replaced.items() if row["kind"] != NARROWED
            }
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            why = f"{type(error).__name__}: {first_sentence(error)}"
            raise InputError(f"a replaced layer of {self.origin.name} cannot be built again: {why}") from error
        model = replace_modules_(model, replacements)
        remember_origin(model, self.origin)
        return model


def make_layer(row: Mapping[str, Any]) -> nn.Module:
    """A layer of this kind and arguments.

    Raises:
        ValueError: If there are other arguments than ``describe_layer`` writes.
    """
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "kind"}
    layer = {kind.__name__: kind for kind in known_layers()}[row["kind"]](**arguments)
    if not row.items() <= (describe_layer(layer) or {}).items() or not is_two_dimensional(layer):
        raise ValueError(f"{row} describes no such layer")
    return layer


def is_two_dimensional(layer: Any) -> bool:
    """True but for a convolution that PyTorch makes and cannot run, as its sizes are not one for each side, or none."""
    sizes = [getattr(layer, name, None) for name in ("kernel_size", "stride", "dilation")]
    sides = 4 if isinstance(getattr(layer, "primary", layer), PaddedConv2d) else 2
    padding = getattr(layer, "padding", None)
    padded = not isinstance(padding, tuple) or len(padding) == sides
    pairs = [size for size in sizes if isinstance(size, tuple)]
    whole = all(type(number) is int for pair in (*pairs, padding) if isinstance(pair, tuple) for number in pair)
    return padded and whole and all(len(pair) == 2 and min(pair) >= 1 for pair in pairs)


def describe_layer(module: nn.Module) -> dict[str, Any] | None:
    """Kind and arguments of a layer in JSON's types, or None where it is of no kind that can be described."""
    describe = known_layers().get(type(module))
    if describe is None or "weight" in vars(module):  # a hook computes it, and would not come again
        return None
    row: dict[str, Any] = json.loads(json.dumps({"kind": type(module).__name__, **describe(module)}))
    return row


def blueprint_of(model: nn.Module) -> Blueprint:
    """The way to build this network again.

    The origin is known for networks that ``create_model`` built. For others it is looked for among
    torchvision's builders of the same class, then the class itself without arguments.

    Raises:
        InputError: If none of these leads to this network.
    """
    origin = known_origin(model)
    why = ""
    found: list[Blueprint] = []
    for candidate in [origin] if origin else likely_origins(model):
        try:
            built = shapes_of(candidate)
            blueprint = Blueprint(candidate, replaced_layers(model, built), frozenset(held_tensors(built)))
            if origin is None:
                refuse_other_settings(model, built)
            found.append(blueprint)
        except Exception as error:  # noqa: BLE001  # a builder may raise anything; then it is not this one
            why = f" ({candidate.name}: {error})"
    if not found:
        raise InputError(
            f"how this {type(model).__name__} was built is not known{why}: build the network with create_model, "
            "which takes 'torchvision:NAME', and any builder that can be imported as 'package.module:factory'"
        )
    return min(found, key=lambda blueprint: len(blueprint.replaced))


def shapes_of(origin: Origin) -> nn.Module:
    """The origin's network, without values where its constructor can do without: one may compute with its weights."""
    with random_numbers_kept():
        try:
            with warnings.catch_warnings(action="ignore"), init_empty_weights():  # such as of values that go nowhere
                return origin.build()
        except InputError:
            return origin.build()


@dataclass(frozen=True)
class HeldTensor:
    """A tensor that is no parameter and no buffer of its network.

    Args:
        tensor: The tensor.
        put: Puts another one in its place.
    """

    tensor: Tensor
    put: Callable[[Tensor], None]


def held_tensors(model: nn.Module) -> dict[str, HeldTensor]:
    """The tensors in the plain attributes of a network's modules, and in lists, tuples and mappings there, by name."""
    found: dict[str, HeldTensor] = {}
    # Lists may hold these, too, as an LSTM's does.
    listed = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def look(name: str, value: Any, put: Callable[[Any], None], depth: int) -> None:
        if isinstance(value, Tensor):
            if not value.is_leaf or id(value) in listed:  # computed anew, as masked weights; or known already
                return
            found[name] = HeldTensor(value, put)
        elif depth and type(value) is tuple:
            items = list(value)

            def put_item(index: int, item: Any) -> None:
                items[index] = item
                put(tuple(items))

            for index, item in enumerate(value):
                look(f"{name}.{index}", item, partial(put_item, index), depth - 1)
        elif depth and isinstance(value, list | dict):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                look(f"{name}.{key}", item, partial(value.__setitem__, key), depth - 1)

    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in OF_EVERY_MODULE:
                look(f"{name}.{attribute}".removeprefix("."), value, partial(setattr, module, attribute), DEPTH)
    return found


def likely_origins(model: nn.Module) -> Iterator[Origin]:
    kind = type(model)
    # Options of torchvision's networks that were trained elsewhere, and of those with a second classifier.
    options = {"transform_input": True} if getattr(model, "transform_input", False) is True else {}
    options |= {"aux_loss": True} if getattr(model, "aux_classifier", None) is not None else {}
    rooms = (torchvision.models, torchvision.models.segmentation)
    for name in (name for room in rooms for name in torchvision.models.list_models(module=room)):
        if torchvision.models.get_model_builder(name).__annotations__.get("return") is kind:
            yield Origin(f"torchvision:{name}", options)
    if kind.__module__ != "__main__" and "<" not in kind.__qualname__ and not kind.__module__.startswith("torch"):
        yield Origin(f"{kind.__module__}:{kind.__qualname__}")


def replaced_layers(model: nn.Module, origin: nn.Module) -> dict[str, dict[str, Any]]:
    """The layers of ``model`` that differ from those of the same name in ``origin``.

    Raises:
        InputError: If they differ in more than layers of a kind that can be described.
    """
    expected, shared = dict(origin.named_modules(remove_duplicate=False)), module_names(origin)
    replaced: dict[str, dict[str, Any]] = {}
    inside_replaced: set[nn.Module] = set()
    met: set[str] = set()
    for module, names in module_names(model).items():
        if module in inside_replaced:
            continue
        met.update(names)
        row = describe_layer(module)
        for name in names:
            if name not in expected:
                raise InputError(f"it has a module {name!r} that its origin lacks")
            there = expected[name]
            apart = [other for other in shared[there] if other not in names]
            if apart:
                raise InputError(f"it has {name!r} and {apart[0]!r} apart, which are one module of its origin")
            if row is not None:
                inside_replaced.update(module.modules())
                if row != describe_layer(there):
                    replaced[name] = row
                    met.update(f"{name}.{inside}" for inside, _ in there.named_modules() if inside)
            elif type(module) is type(there) and (row := narrowed(module, there)) is not None:
                replaced[name] = row
            elif type(module) is not type(there) or own_shape(module) != own_shape(there):
                own, other = (" ".join(repr(one).split())[:60] for one in (module, there))
                raise InputError(f"{name or 'the network'} is a {own}, not its origin's {other}")
    lost = [name for name in expected if name not in met]
    if lost:
        raise InputError(f"it lacks the module {lost[0]!r} of its origin")
    return replaced


def narrowed(module: nn.Module, origin: nn.Module) -> dict[str, Any] | None:
    """How a module of any class differs from its origin, where it has only lost rows of its own tensors.

    So are layers between convolutions that have weights for each channel, such as timm's BatchNormAct2d or a PReLU.
    """
    before = own_tensors(origin)
    sizes = {name: list(tensor.shape) for name, tensor in own_tensors(module).items() if tensor.ndim}
    if not any(name in before and size != list(before[name].shape) for name, size in sizes.items()):
        return None
    changed = {name: size for name, size in sizes.items() if name not in before or size != list(before[name].shape)}
    numbers = {key: vars(module)[key] for key in NUMBERS if vars(module).get(key) != vars(origin).get(key)}
    row = {"kind": NARROWED, "sizes": changed, "numbers": numbers}
    like = copy.copy(origin)
    like._parameters, like._buffers = dict(origin._parameters), dict(origin._buffers)
    try:
        narrow_(like, row)
    except (KeyError, TypeError, ValueError):
        return None
    return row if own_shape(like) == own_shape(module) else None


def narrow_(module: nn.Module, row: Mapping[str, Any]) -> None:
    """Leave the first rows of a module's own tensors, as many as ``narrowed`` says.

    Raises:
        KeyError, TypeError, ValueError: If the row is not one of its.
    """
    tensors = own_tensors(module)
    if row.keys() != {"kind", "sizes", "numbers"}:
        raise ValueError(f"{row} describes no such layer")
    for name, size in row["sizes"].items():
        tensor = tensors[name]
        whole = len(size) == tensor.ndim and all(type(new) is int for new in size)
        if not whole or not all(0 < new <= old for new, old in zip(size, tensor.shape, strict=True)):
            raise ValueError(f"{name} of {list(tensor.shape)} cannot be narrowed to {size}")
    rows = {length for size in row["sizes"].values() for length in size}
    for key, number in row["numbers"].items():
        known = key in NUMBERS and type(number) is int and (number in rows or key == "groups")
        if not known or not 0 < number <= vars(module)[key]:
            raise ValueError(f"{key} cannot become {number}")
    for name, size in row["sizes"].items():
        put_(module, name, tensors[name].detach()[tuple(slice(length) for length in size)])
    vars(module).update(row["numbers"])


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that are the module's own, by name."""
    return dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))


def own_shape(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """The printed form of a module without children, "" of others; and the shapes of its own parameters."""
    printed = "" if next(module.children(), None) is not None else repr(module)
    return printed, {name: parameter.shape for name, parameter in module.named_parameters(recurse=False)}


def refuse_other_settings(model: nn.Module, origin: nn.Module) -> None:
    """Refuse plain attributes that differ: the network was built with other arguments than a guessed origin."""
    modules = dict(model.named_modules())
    for name, there in origin.named_modules():
        own, expected = plain_attributes(modules.get(name, there)), plain_attributes(there)
        for attribute in own.keys() & expected.keys():
            if comparable(own[attribute]) != comparable(expected[attribute]):
                what = f"{name}.{attribute}".removeprefix(".")
                raise InputError(f"{what} is {own[attribute]!r}, not its origin's {expected[attribute]!r}")


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Public flags, numbers, words and functions of a module, and tuples of these.

    None for a layer that can be described: its arguments are compared.
    """
    if type(module) in known_layers():
        return {}
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    return {name: value for name, value in public.items() if is_plain(value)}


def is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | type | FunctionType | BuiltinFunctionType)


def comparable(value: Any) -> Any:
    """A plain value as it is compared: a function by its name, as each network may have a copy of its own."""
    if isinstance(value, tuple | list):
        return [comparable(one) for one in value]
    return (value.__module__, value.__qualname__) if isinstance(value, FunctionType) else value
