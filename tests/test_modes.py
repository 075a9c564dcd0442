"""What is borrowed of a network and of PyTorch is given back."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghostify.modes import without_inference_mode


class Decorated(nn.Linear):
    """Infers as evaluation codes do: its forward is decorated."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Around(nn.Linear):
    """Enters the mode within, and leaves it for a part."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = super().forward(x)
            with torch.inference_mode(False):
                return x * 2


class Bare(nn.Linear):
    """Is decorated without brackets."""

    @torch.inference_mode
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("kind", [Decorated, Around, Bare])
@pytest.mark.parametrize("outside", [nullcontext, torch.inference_mode])
def test_a_network_that_enters_inference_mode_can_be_learnt_through(kind: Any, outside: Any) -> None:
    network, x = kind(3, 2), torch.randn(4, 3)
    before = network(x)
    with outside(), without_inference_mode(), torch.enable_grad():
        after = network(x)
        after.sum().backward()
    assert torch.equal(before, after)
    assert network.weight.grad is not None
    assert network(x).is_inference() or kind is Around


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_gradients_are_recorded_or_not_as_before_and_the_mode_is_what_it_was_afterwards(mode: Any) -> None:
    with mode():
        recorded, inferring = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with pytest.raises(KeyError), without_inference_mode():  # noqa: PT012  # what is so inside is the point
            assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled() == recorded
            raise KeyError
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (recorded, inferring)
    with torch.inference_mode():
        assert torch.is_inference_mode_enabled()
