"""Swap modules inside a network. It has never heard of ghosts."""

from collections.abc import Mapping

from torch import nn


def replace_modules_(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Swap modules in place, wherever they occur; a module that is shared stays shared.

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
    for parent in list(model.modules()):
        # Not named_children: that hides the second name of a module that a parent holds twice.
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
        for listed in vars(parent).values():
            if isinstance(listed, list):  # of layers in the order of their calls, beside their own names
                listed[:] = [replacements.get(item, item) if isinstance(item, nn.Module) else item for item in listed]
    return replacements.get(model, model)


def conv_at(model: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of that name, where it is known to be one."""
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All full names of each module, the first one first; the root's is ""."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names
