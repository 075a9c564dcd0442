"""Tensors that other tools put into a state dict, beside the network's."""

from collections.abc import Collection, Mapping

from torch import Tensor

# Of profilers (thop), in each module.
COUNTERS = ("total_ops", "total_params")
# Endings of tensors from which a layer computes its weights anew → how these are put back into it.
COMPUTED = {
    "weight_g": "torch.nn.utils.remove_weight_norm",
    "weight_u": "torch.nn.utils.remove_spectral_norm",
    "weight_mask": "torch.nn.utils.prune.remove",
    "weight.original": "torch.nn.utils.parametrize.remove_parametrizations",
    "weight.original0": "torch.nn.utils.parametrize.remove_parametrizations",
}


def without_additions(state: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict as the network's own names have it: masked weights multiplied, counters and averages left out.

    Args:
        own: The network's names.
    Returns:
        The tensors, and the names of those that were left out.
    Example:
        >>> import torch
        >>> ones = torch.ones(2)
        >>> state = {"a.weight_orig": 3 * ones, "a.weight_mask": ones, "a.total_ops": ones}
        >>> without_additions(state, ["a.weight"])
        ({'a.weight': tensor([3., 3.])}, ['a.total_ops'])
    """
    averages = {f"ema_{name.replace('.', '_')}" for name in own}  # mmcv's, beside the weights
    found, left_out = dict(state), []
    for name in state.keys() - own:
        masked = name.removesuffix("_orig")
        mask = state.get(f"{masked}_mask")
        if masked in own and mask is not None and mask.shape == state[name].shape:
            found[masked] = found.pop(name) * found.pop(f"{masked}_mask")
        elif name.rpartition(".")[2] in COUNTERS or name in averages:
            del found[name]
            left_out.append(name)
    return found, sorted(left_out)


def put_back_by(names: Collection[str]) -> str | None:
    """PyTorch's function that puts back weights which are computed from tensors of these names; None without such."""
    return next((remedy for ending, remedy in COMPUTED.items() if any(name.endswith(ending) for name in names)), None)
