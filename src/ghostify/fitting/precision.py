"""Networks in half precision are fitted in float32, and put back."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.modes import evaluating

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class InFloat32:
    """A network and its inputs, in float32 where the network is in half precision throughout and runs so.

    Args:
        model: The network itself, or a copy.
        batches: Its inputs.
        before: Type of the network before; None where nothing was changed.
    """

    model: nn.Module
    batches: list[Tensor]
    before: torch.dtype | None

    def back(self, model: nn.Module) -> nn.Module:
        """A network in the type that this one had before."""
        return model if self.before is None else model.to(self.before)


@torch.no_grad()
def in_float32(model: nn.Module, batches: Sequence[Tensor]) -> InFloat32:
    """Take a network to float32, in which sums over many samples and small steps are not lost to rounding.

    Args:
        model: Left untouched.
        batches: Inputs that it takes.
    """
    types = {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    types |= {batch.dtype for batch in batches}
    if len(types) != 1 or not types <= set(HALF):
        return InFloat32(model, list(batches), None)
    larger, inputs = copy.deepcopy(model).float(), [batch.float() for batch in batches]
    try:
        with evaluating(larger):
            larger(inputs[0][:1].clone())
    except Exception:  # noqa: BLE001  # whatever the network's own code raises, where it has a type written out
        return InFloat32(model, list(batches), None)
    return InFloat32(larger, inputs, types.pop())
