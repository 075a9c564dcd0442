"""Swap modules inside a network, and check that it runs the new ones. Nothing here is about ghosts."""

import copy
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ghostify.errors import InputError
from ghostify.hooks import hooked
from ghostify.modes import evaluating


def replace_modules_(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Swap modules in place, wherever they occur; a module that is shared stays shared.

    Also in lists, tuples and dicts that modules keep beside their named children. Attributes that somebody put on a
    module go along.

    Args:
        model: Changed in place.
        replacements: Old module → new module.
    Returns:
        The model, or its replacement where the root itself is replaced.
    Example:
        >>> shared = nn.ReLU()
        >>> model = replace_modules_(nn.Sequential(shared, shared), {shared: nn.GELU()})
        >>> model[0] is model[1], model[0]
        (True, GELU(approximate='none'))
    """
    for old, new in replacements.items():
        carry_attributes_(old, new)
    for parent in list(model.modules()):
        # Not named_children: that hides the second name of a module that a parent holds twice.
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
        for name, value in list(vars(parent).items()):
            if not name.startswith("_") and isinstance(value, list | tuple | dict):
                vars(parent)[name] = swapped(value, replacements)
    return replacements.get(model, model)


def swapped(value: Any, replacements: Mapping[nn.Module, nn.Module]) -> Any:
    """A container with the modules in it swapped; lists and dicts in place, the same tuple where it holds none."""
    if isinstance(value, nn.Module):
        return replacements.get(value, value)
    if isinstance(value, list):
        value[:] = [swapped(item, replacements) for item in value]
    elif isinstance(value, dict):
        value.update({key: swapped(item, replacements) for key, item in value.items()})
    elif type(value) is tuple:
        items = tuple(swapped(item, replacements) for item in value)
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def carry_attributes_(old: nn.Module, new: nn.Module) -> None:
    """Give a new module the attributes that somebody put on the old one: a network's code may read them.

    Only for a plain convolution is it known which are not its own.
    """
    if type(old) is nn.Conv2d:
        for name in vars(old).keys() - PLAIN_ATTRIBUTES - vars(new).keys():
            vars(new)[name] = vars(old)[name]


PLAIN_ATTRIBUTES = vars(nn.Conv2d(1, 1, 1)).keys()


@torch.no_grad()
def found_by_name(model: nn.Module, names: Collection[str], example: Tensor) -> set[str]:
    """Names of the modules that a swap would replace wherever they run: the network has no other reference to them.

    Args:
        model: Left untouched.
        names: Names of modules that run without hooks of their own.
        example: One batch for it.
    """
    trial = copy.deepcopy(model)
    old = {name: trial.get_submodule(name) for name in names}
    stand_ins = {name: stand_in(module) for name, module in old.items()}
    trial = replace_modules_(trial, {old[name]: stand_ins[name] for name in names})
    ran: set[nn.Module] = set()
    with (
        evaluating(trial),
        hooked([*old.values(), *stand_ins.values()], before=lambda module, args: ran.add(module)),
    ):
        trial(example.clone())
    return {name for name in names if stand_ins[name] in ran and old[name] not in ran}


@torch.no_grad()
def used_uncalled(model: nn.Module, names: Collection[str], example: Tensor) -> set[str]:
    """Those of some modules that are never called, though the network's outputs depend on their parameters.

    Args:
        model: Left untouched.
        names: Modules that do not run when the network does.
        example: One batch for it.
    """
    trial = copy.deepcopy(model)

    def outputs() -> list[Tensor]:
        with evaluating(trial):
            return [leaf for leaf in tree_leaves(trial(example.clone())) if isinstance(leaf, Tensor)]

    before, found = outputs(), set[str]()
    if any(output.is_meta for output in before):
        return found  # there are no values that could depend on anything
    for name in names:
        parameters = list(trial.get_submodule(name).parameters())
        own = [parameter.clone() for parameter in parameters]
        for parameter in parameters:
            parameter.add_(1)
        if not all(map(torch.equal, before, outputs())):
            found.add(name)
        for parameter, value in zip(parameters, own, strict=True):
            parameter.copy_(value)
    return found


def stand_in(module: nn.Module) -> nn.Module:
    """Another module with the same parameters."""
    other = copy.copy(module)
    other._forward_hooks, other._forward_pre_hooks = OrderedDict(), OrderedDict()
    return other


@torch.no_grad()
def check_swap(before: nn.Module, after: nn.Module, names: Collection[str], example: Tensor) -> None:
    """Run a network once after modules were swapped, and check that it runs the new ones.

    Args:
        before: The network as it was.
        names: Names of the modules that were swapped.
        example: One batch for both.
    Raises:
        InputError: If a new module does not run where the old one did, or an output has another shape than before.
    """
    ran: set[nn.Module] = set()
    modules = [model.get_submodule(name) for model in (before, after) for name in names]
    with evaluating(before, after), hooked(modules, before=lambda module, args: ran.add(module)):
        outputs, expected = (
            [tuple(leaf.shape) for leaf in tree_leaves(model(example.clone())) if isinstance(leaf, Tensor)]
            for model in (after, before)
        )
    for name in names:
        if before.get_submodule(name) in ran and after.get_submodule(name) not in ran:
            raise InputError(f"{type(before).__name__} does not run {name} after it was replaced: skip it")
    if outputs != expected:
        raise InputError(f"{type(before).__name__} returns {outputs} after layers were replaced, {expected} before")


def conv_at(model: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of that name."""
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All full names of each module, the first one first; the root's is ""."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names
