"""Networks that return objects of their own: what is in these counts as output."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghostify import InputError, convert, deploy, plan
from ghostify.structure.channels import find_prunable


@dataclass
class Scores:
    logits: Tensor
    loss: Tensor | None = None


@dataclass(slots=True)
class Slotted:
    logits: Tensor


class Items(OrderedDict[str, Tensor]):
    """A mapping whose items are attributes, too."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits)
        self.logits, self.me = logits, self


class Reaching(nn.Module):
    """Reaches its second convolution in another way than by name."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.output = nn.Conv2d(16, 16, 3, padding=1), output
        self.call = self.second.forward

    def forward(self, x: Tensor) -> Any:
        return self.output(self.last(self.call(self.first(x).relu()).relu()))


@pytest.mark.parametrize("output", [Scores, Slotted, Items])
def test_objects_are_looked_into(output: Any) -> None:
    model, x = Reaching(output).eval(), torch.randn(32, 3, 8, 8)
    found = {layer.name: layer.replaced for layer in convert(model, input_shape=(3, 8, 8)).layers}
    assert found == {"first": True, "second": False, "last": True}
    assert isinstance(find_prunable(model, x[:1], ["first", "last"])["last"], str)
    made = plan(model, example=x[:1], calibration=[x], target_macs=0.95, merging=False)
    planned = convert(model, calibration=[x], plan=made, effort="fast").model
    assert planned(x).logits.shape == (32, 16, 8, 8)
    assert not torch.equal(planned(x).logits, model(x).logits)
    with pytest.raises(InputError, match=f"returns {output.__name__}, a class that torch.export does not know"):
        deploy(model, x)
