"""Swap modules inside a network, and check that it runs the new ones. Nothing here is about ghosts."""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ghostify.errors import InputError, spelled
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
                vars(parent)[name] = swapped(value, replacements, set())
    return replacements.get(model, model)


def swapped(value: Any, replacements: Mapping[nn.Module, nn.Module], seen: set[int]) -> Any:
    """A container with the modules in it swapped; lists and dicts in place, the same tuple where it holds none.

    Args:
        seen: Identities of the lists and dicts around it, which may hold themselves.
    """
    if isinstance(value, nn.Module):
        return replacements.get(value, value)
    if isinstance(value, list | dict) and id(value) not in seen:
        seen.add(id(value))
        for key, item in list(enumerate(value) if isinstance(value, list) else value.items()):
            new = swapped(item, replacements, seen)
            if new is not item:
                value[key] = new
    elif type(value) is tuple:
        items = tuple(swapped(item, replacements, seen) for item in value)
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def carry_attributes_(old: nn.Module, new: nn.Module) -> None:
    """Give a new module the attributes that somebody put on the old one: a network's code may read them.

    Only for a convolution is it known which are not its own.
    """
    if isinstance(old, nn.Conv2d):
        for name in vars(old).keys() - PLAIN_ATTRIBUTES - vars(new).keys():
            vars(new)[name] = vars(old)[name]


# Its parameters, too: where a hook computes them, they are attributes like others.
PLAIN_ATTRIBUTES = {*vars(nn.Conv2d(1, 1, 1)), "weight", "bias"}


# What code may read of any layer that takes a convolution's place.
READABLE = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class StandIn(nn.Module):
    """A module of another class that computes what the one does whose place it takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = [module]  # in a list, so that it is no child
        vars(self).update({name: getattr(module, name) for name in READABLE if hasattr(module, name)})

    def forward(self, x: Tensor) -> Any:
        """Compute without calling the module, so that its own calls can be counted."""
        return type(self._module[0]).forward(self._module[0], x)


@torch.no_grad()
def replaceable(model: nn.Module, names: Collection[str], example: Tensor) -> set[str]:
    """Names of the modules that another module can replace: the network runs that one, and nothing else changes.

    Not those that the network's code reaches in another way than by name, whose weights it reads, or of which it asks
    what they are.

    Args:
        model: Left untouched.
        names: Names of modules that run, with one tensor in, and without hooks of their own.
        example: One batch for it.
    """
    expected, again = (outputs_of(copy.deepcopy(model), example) for _ in range(2))
    steady = same(expected, again)  # a network may draw random numbers

    def replaced(names: Collection[str]) -> set[str] | None:
        trial = copy.deepcopy(model)
        old = {name: trial.get_submodule(name) for name in names}
        new = {name: StandIn(module) for name, module in old.items()}
        trial = replace_modules_(trial, {old[name]: new[name] for name in names})
        ran: set[nn.Module] = set()
        try:
            with hooked([*old.values(), *new.values()], before=lambda module, args: ran.add(module)):
                outputs = outputs_of(trial, example)
        except Exception:  # noqa: BLE001  # whatever the network's own code raises where it finds another module
            return None
        if steady and not same(outputs, expected):
            return None
        return {name for name in names if new[name] in ran and old[name] not in ran}

    found = replaced(names)
    return found if found is not None else {name for name in names if replaced([name])}


class TensorsUsed(TorchFunctionMode):
    """Finds which of some tensors operators get meanwhile.

    Args:
        owners: By the identity of each tensor, the name that is to be found.
    """

    def __init__(self, owners: Mapping[int, str]) -> None:
        super().__init__()
        self.owners, self.found = owners, set[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= {self.owners[id(leaf)] for leaf in tree_leaves((args, kwargs)) if id(leaf) in self.owners}
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def shared_with_copies(model: nn.Module, example: Tensor) -> set[str]:
    """Names of the modules that a copy of a network runs instead of its own.

    A copy has the same closures and weak references, and these know the modules of the network itself.

    Args:
        example: One batch for it.
    """
    owners = {
        id(tensor): name
        for name, module in model.named_modules()
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    copied = copy.deepcopy(model)
    with TensorsUsed(owners) as used:
        outputs_of(copied, example)
    return used.found


def outputs_of(model: nn.Module, example: Tensor) -> list[Tensor]:
    """The tensors that a network returns in eval mode, in any nesting."""
    with evaluating(model):
        return tensors_in(model(example.clone()))


def tensors_in(outputs: Any) -> list[Tensor]:
    """The tensors in what a network returns, in any nesting, and in the attributes of objects, as of dataclasses.

    Example:
        >>> from types import SimpleNamespace
        >>> tensors_in((torch.ones(1), {"logits": None, "more": SimpleNamespace(masks=[torch.zeros(1)])}))
        [tensor([1.]), tensor([0.])]
    """
    found: dict[int, Tensor] = {}  # once each: some mappings have their items as attributes, too
    for tensor in walk_tensors(outputs, set()):
        found.setdefault(id(tensor), tensor)
    return list(found.values())


def walk_tensors(outputs: Any, seen: set[int]) -> Iterator[Tensor]:
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf
        elif not isinstance(leaf, nn.Module | type) and id(leaf) not in seen:
            seen.add(id(leaf))  # objects may hold themselves
            slots = {name: getattr(leaf, name, None) for name in getattr(type(leaf), "__slots__", ())}
            held = [*leaf.values()] if isinstance(leaf, Mapping) else []
            if held := [*held, *getattr(leaf, "__dict__", slots).values()]:
                yield from walk_tensors(held, seen)


def same(outputs: list[Tensor], others: list[Tensor]) -> bool:
    """True if tensors are equal; those without values, if their shapes are."""
    if [output.shape for output in outputs] != [other.shape for other in others]:
        return False
    return all(a.is_meta or torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(outputs, others, strict=True))


def close(output: Tensor, target: Tensor) -> bool:
    """True if tensors differ by rounding only, however small their numbers are."""
    if output.shape != target.shape:
        return False
    if not (target.is_floating_point() and target.numel()):
        return torch.equal(output, target)
    spread = float((target - target.mean()).abs().max())
    return torch.allclose(output, target, rtol=1e-3, atol=1e-3 * spread)


@torch.no_grad()
def used_uncalled(model: nn.Module, names: Collection[str], example: Tensor) -> set[str]:
    """Those of some modules that are never called, though the network's outputs depend on their parameters.

    Args:
        model: Left untouched.
        names: Modules that do not run when the network does.
        example: One batch for it.
    """
    trial, found = copy.deepcopy(model), set[str]()
    before = outputs_of(trial, example)
    for name in names:
        parameters = list(trial.get_submodule(name).parameters())
        own = [parameter.clone() for parameter in parameters]
        for parameter in parameters:
            parameter.add_(1)
        if not same(outputs_of(trial, example), before):
            found.add(name)
        for parameter, value in zip(parameters, own, strict=True):
            parameter.copy_(value)
    return found


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
    with hooked(modules, before=lambda module, args: ran.add(module)):
        outputs, expected = (
            [tuple(output.shape) for output in outputs_of(model, example)] for model in (after, before)
        )
    for name in names:
        if before.get_submodule(name) in ran and after.get_submodule(name) not in ran:
            raise InputError(
                f"{type(before).__name__} does not run {name} after it was replaced: skip it ({spelled('skip', name)})"
            )
    if outputs != expected:
        raise InputError(f"{type(before).__name__} returns {outputs} after layers were replaced, {expected} before")


def conv_at(model: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of that name."""
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def has_hooks(module: nn.Module) -> bool:
    """True if a module has hooks, or a ``forward`` or another method, of its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or has_own_methods(module)


def has_own_methods(module: nn.Module) -> bool:
    """True if somebody gave a module a method that its class has otherwise."""
    return any(callable(value) and callable(getattr(type(module), name, None)) for name, value in vars(module).items())


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All full names of each module, the first one first; the root's is ""."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names
