"""Nothing changes: a convolution computes all its channels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ghostify.changes.change import OutputChange, refuse_unless
from ghostify.changes.layer import Convolution, Sizes


@dataclass(frozen=True)
class Keep(OutputChange):
    """All channels are computed; their filters can still be fitted to inputs that changed."""

    kind = "keep"
    kept: int

    def __post_init__(self) -> None:
        refuse_unless(self.kept >= 1, self, "at least 1 channel")

    @classmethod
    def offered(cls, layer: Convolution, sizes: Sizes) -> Iterable[Self]:
        yield cls(layer.out_channels)

    @property
    def changes_something(self) -> bool:
        return False
