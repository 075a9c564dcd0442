"""Modes that a network enters, or its caller, and types other than float32 lead to the same ghosts and plans."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghostify import convert, plan

X = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(0))
OTHERS = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Network(nn.Module):
    """Three convolutions, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3)
        self.third, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 5)

    def start(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)).relu()).relu()

    def end(self, x: Tensor) -> Tensor:
        return self.head(self.third(x).relu().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.start(x))


class AutocastPart(Network):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.start(x)
        return self.end(x.float())


class AutocastAll(Network):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class NoAutocastPart(Network):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.start(x)
        return self.end(x)


class Inference(Network):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class InferencePart(Network):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = self.start(x)
        return self.end(x.clone())


class NoGrad(Network):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class FrozenPart(Network):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(False):
            x = self.start(x)
        return self.end(x)


class Mixed(Network):
    """Its head is in double precision, its second convolution in half."""

    def __init__(self) -> None:
        super().__init__()
        self.second.bfloat16()
        self.head.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu().bfloat16()).relu().float()
        return self.head(self.third(x).relu().mean((2, 3)).double())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def error_of(
    kind: type[Network], dtype: torch.dtype, around: Callable[[], AbstractContextManager[Any]], **options: Any
) -> float:
    """How far a network's ghost is from it on images that it was not fitted to, as a share of its variance."""
    torch.manual_seed(0)
    model = kind().to(dtype).eval() if dtype != torch.float32 else kind().eval()
    with around():
        found = convert(model, calibration=[X.to(dtype)], **options)
    assert found.replaced == 3
    assert {p.dtype for p in found.model.parameters()} == {p.dtype for p in model.parameters()}
    others = OTHERS.to(dtype)
    with torch.no_grad():
        before, after = model(others).double(), found.model(others).double()
    return float((after - before).square().mean() / before.var())


CASES: dict[str, tuple[type[Network], torch.dtype, Callable[[], AbstractContextManager[Any]]]] = {
    **{
        kind.__name__: (kind, torch.float32, nullcontext)
        for kind in (AutocastPart, AutocastAll, NoAutocastPart, Inference, InferencePart, NoGrad, FrozenPart, Mixed)
    },
    "within autocast": (Network, torch.float32, lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "within inference mode": (Network, torch.float32, torch.inference_mode),
    "within no_grad": (Network, torch.float32, torch.no_grad),
    "double is the default": (Network, torch.float32, lambda: default_dtype(torch.float64)),
    "float64": (Network, torch.float64, nullcontext),
    "float16": (Network, torch.float16, nullcontext),
    "bfloat16": (Network, torch.bfloat16, nullcontext),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    """Errors where no mode is entered, by effort."""
    options = {"cheap": "pointwise"}
    return {e: error_of(Network, torch.float32, nullcontext, effort=e, **options) for e in ("fast", "refined")}


@pytest.mark.parametrize("case", CASES)
def test_a_ghost_is_as_good_as_without(case: str, expected: dict[str, float]) -> None:
    kind, dtype, around = CASES[case]
    fast = error_of(kind, dtype, around, cheap="pointwise", effort="fast")
    assert fast == pytest.approx(expected["fast"], rel=0.25)
    refined = error_of(kind, dtype, around, cheap="pointwise", effort="refined")
    # A whole network that computes without gradients does not learn by them.
    assert refined < (1.01 * fast if kind in (NoGrad, FrozenPart) else 0.75 * fast)


@pytest.mark.parametrize("case", ["AutocastPart", "Inference", "within autocast", "within inference mode", "float16"])
def test_a_plan_is_the_same_as_without(case: str) -> None:
    plans = []
    for kind, dtype, around in (CASES[case], (Network, torch.float32, nullcontext)):
        torch.manual_seed(0)
        model = kind().eval().to(dtype)
        with around():
            plans.append(plan(model, example=X[:1].to(dtype), calibration=[X.to(dtype)], target_macs=0.7))
    assert [row.dropped for row in plans[0].values()] == [row.dropped for row in plans[1].values()]
    assert plans[0].macs == pytest.approx(plans[1].macs, abs=0.05)


def test_outside_again_the_modes_are_as_before() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convert(AutocastPart().eval(), calibration=[X], effort="fast", ratio=2)
        assert torch.is_autocast_enabled("cpu")
        assert nn.Conv2d(3, 8, 3)(X).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
