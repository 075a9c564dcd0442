"""The network that a plan is for, recognised by its convolutions."""

from collections.abc import Iterator, Mapping

from torch import nn

from ghostify.errors import InputError
from ghostify.plain_part import plain_part

# Convolution → shape of its weight, [out_channels, in_channels / groups, kernel height, kernel width].
Shapes = Mapping[str, tuple[int, ...]]
NAMED = 3  # convolutions that a message names


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of all convolutions by name, in the network's order; of a detector, its plain part's.

    Example:
        >>> weight_shapes(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)))
        {'0': (8, 3, 5, 5), '2': (8, 1, 3, 3)}
    """
    return {
        name: (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
        for name, conv in plain_part(model).named_modules()
        if isinstance(conv, nn.Conv2d)
    }


def refuse_other_network(plan: object, model: nn.Module) -> None:
    """Refuse a plan that was made for another network.

    Plans that people write need not say for which network they are: these may name any of its layers.

    Raises:
        InputError: If the plan knows its network, and a convolution is missing on one side or has another shape.
    """
    there: Shapes | None = getattr(plan, "network", None)
    if there is None:
        return
    here = weight_shapes(model)
    different = list(differences(there, here))
    if different:
        more = len(different) - NAMED
        named = "; ".join(different[:NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(
            f"the plan is for another network: {len(different)} of {len({**there, **here})} convolutions do not match: "
            f"{named}: expected a plan that was made for this one"
        )


def differences(there: Shapes, here: Shapes) -> Iterator[str]:
    """In words, each convolution that differs between the plan's network and this one."""
    for name, shape in here.items():
        if name not in there:
            yield f"{name} is not in the plan's network"
        elif there[name] != shape:
            yield f"{name} has weights {list(there[name])} there and {list(shape)} here"
    for name in there:
        if name not in here:
            yield f"{name} is only in the plan's network"
