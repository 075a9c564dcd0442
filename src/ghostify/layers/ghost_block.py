"""GhostBlock: one convolution in the place of a residual block, all of whose maps are ghosts of its input."""

from torch import Tensor, nn
from torch.nn import functional as F


class GhostBlock(nn.Module):
    """One convolution in the place of a residual block and its sum; a new one returns its input.

    Args:
        channels: Number of maps in and out.
        kernel_size: Height and width of the filters, odd: 1 for combinations of the maps.
        relu: Put a ReLU behind the convolution, as the block has one behind its sum.
    Shape:
        ``[batch, channels, height, width]`` → the same.
    """

    def __init__(self, channels: int, kernel_size: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.channels, self.kernel_size, self.relu = channels, kernel_size, relu
        self.cheap = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        nn.init.dirac_(self.cheap.weight)
        assert self.cheap.bias is not None
        nn.init.zeros_(self.cheap.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → the same."""
        y: Tensor = self.cheap(x)
        return F.relu(y) if self.relu else y

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, relu={self.relu}"
