"""Folded ghosts give what unfolded ones gave."""

import pytest
import torch
from torch import nn

from ghostify import GhostConv2d, create_model
from ghostify.structure.surgery import replace_modules_
from ghostify.transform.order import fold_orders


class Flattened(nn.Module):
    """Its convolution's maps reach a linear layer laid flat, four inputs for each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.norm(self.conv(x)).relu()).flatten(1))


class Shuffled(Flattened):
    """The same, but its maps change places on the way, which a tracer may overlook."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.pool(self.norm(self.conv(x)).relu())
        return self.head(maps.unflatten(1, (4, 4)).transpose(1, 2).flatten(1))


def shuffled_ghost(model: nn.Module) -> nn.Module:
    """Every wide plain convolution a ghost whose maps leave in a random order."""
    ghosts: dict[nn.Module, nn.Module] = {}
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == 1 and conv.out_channels >= 8:
            merged = conv.in_channels // 2 if conv.in_channels % 3 else None  # of some layers the inputs, too
            ghost = GhostConv2d.like(conv, cheap="pointwise", merged=merged)
            ghost.order = torch.randperm(conv.out_channels)
            ghosts[conv] = ghost
        elif isinstance(conv, nn.BatchNorm2d):
            for tensor in (conv.weight, conv.bias, conv.running_mean, conv.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return replace_modules_(model, ghosts).eval()


@pytest.mark.parametrize(
    ("build", "size", "folded"),
    [
        (lambda: create_model("resnet20"), 16, 9),  # the first of each block's two; the others are summed
        (lambda: create_model("torchvision:mobilenet_v2"), 32, 20),  # all but the summed ones
        (lambda: create_model("torchvision:squeezenet1_1"), 64, 9),  # the stem; what two layers take
        (Flattened, 8, 1),
        (Shuffled, 8, 0),
    ],
)
def test_orders_are_folded_where_maps_are_inner_and_change_nothing(build, size, folded) -> None:  # type: ignore[no-untyped-def]
    model = build()
    ghost = shuffled_ghost(build())
    x = torch.randn(2, 3, size, size)
    free = fold_orders(ghost, model, x)
    gone = [name for name, m in free.named_modules() if isinstance(m, GhostConv2d) and m.order is None]
    assert len(gone) == folded
    with torch.no_grad():
        torch.testing.assert_close(free(x), ghost(x), atol=1e-5, rtol=1e-5)
    assert all(m.order is not None for m in ghost.modules() if isinstance(m, GhostConv2d))  # left untouched
