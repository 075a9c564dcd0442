"""Each operator belongs to a layer, and what a layer lost has a reason."""

import pytest
import torch
from torch import Tensor, nn

from ghostify import InputError, convert, count, explain
from ghostify.inference.engines import Operator
from ghostify.inference.explain import Step, explained
from ghostify.measure.count import LayerCount


class Small(nn.Module):
    """A stem, a residual block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head((self.conv(x) + x).relu().mean((2, 3)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engines_operators_are_found_in_their_layers(engine: str) -> None:
    torch.manual_seed(0)
    original = Small().eval()
    ghost = convert(original, input_shape=(3, 16, 16), skip=["stem"]).model.eval()
    found = explain(original, ghost, torch.randn(1, 3, 16, 16), engine=engine, calls=3)
    assert [layer.name for layer in found.layers if layer.name] == ["stem", "conv", "head"]
    assert found.macs == (count(original, (3, 16, 16)).macs, count(ghost, (3, 16, 16)).macs)
    for layer in found.layers:
        if layer.name in ("stem", "conv"):  # OpenVINO tells whole microseconds, of which the head may take none
            assert min(layer.ms) > 0
    for side in (0, 1):
        total = found.ms[side]
        assert sum(layer.ms[side] for layer in found.layers) == pytest.approx(total)
        assert sum(ms[side] for ms in found.roles_ms.values()) == pytest.approx(total)
    assert found.roles_ms["depthwise filters"][0] == 0 < found.roles_ms["depthwise filters"][1]


def step(name: str, role: str, ms: float, macs: int, module: nn.Module, shape: tuple[int, ...]) -> Step:
    return Step(Operator(name, role, (ms,)), role, module, LayerCount(name, "Conv2d", macs, 0, shape))


def test_what_was_lost_is_what_the_multiply_adds_do_not_account_for() -> None:
    whole = [step("a", "dense convolutions", 1.0, 10**9, nn.Conv2d(64, 64, 1), (64, 56, 56))]
    half = step("b", "dense convolutions", 0.5, 5 * 10**8, nn.Conv2d(64, 32, 1), (32, 56, 56))
    assert explained("a", whole, [half]).reasons == ()
    filters = step("c", "depthwise filters", 0.25, 10**7, nn.Conv2d(32, 32, 3, groups=32), (32, 56, 56))
    layer = explained("a", whole, [half, filters])
    assert (layer.macs, layer.ms) == ((10**9, 51 * 10**7), (1.0, 0.75))
    assert layer.lost_ms == pytest.approx(0.24)
    (reason,) = layer.reasons
    # 2 × 4 bytes of 32 × 56 × 56 numbers in 0.25 ms.
    assert reason == "depthwise filters take 0.250 ms for 10.0 M multiply-adds, 3 GB/s"
    norm = step("e", "depthwise filters", 0.1, 10**5, nn.Conv2d(32, 32, 1, groups=32), (32, 56, 56))
    assert explained("bn.affine", [], [norm]).reasons[0].startswith("takes 0.100 ms: a BatchNorm that cannot be folded")
    odd = step("d", "dense convolutions", 0.9, 5 * 10**8, nn.Conv2d(64, 20, 1), (20, 56, 56))
    (reason,) = explained("a", whole, [odd]).reasons
    assert reason.startswith("dense convolutions take 0.400 ms more than at the original's speed")


def test_bad_input_is_refused_in_a_line() -> None:
    layer = nn.Conv2d(3, 8, 1)
    with pytest.raises(InputError, match="expected one of onnxruntime, openvino"):
        explain(layer, layer, torch.zeros(1, 3, 8, 8), engine="eager")
    with pytest.raises(InputError, match="calls is 0"):
        explain(layer, layer, torch.zeros(1, 3, 8, 8), calls=0)
