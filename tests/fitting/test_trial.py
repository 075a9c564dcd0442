"""A trial's error is what a change does to the network's output; nothing stays changed."""

from typing import Any

import pytest
import torch
from small import SHAPE, Net, candidates_of, outputs_of
from torch import Tensor, nn

from ghostify import InputError, convert, count, create_model
from ghostify.changes import (
    BlockPlan,
    Change,
    DepthwiseGhosts,
    Keep,
    LayerPlan,
    MergeInputs,
    OneConvolution,
    PointwiseGhosts,
    Prune,
)
from ghostify.fitting.trial import Trial
from ghostify.planning.candidates import Candidates, find_candidates, offer_for


def trial_of(model: nn.Module, candidates: Candidates, batches: list[Tensor]) -> Trial:
    layers = {name: candidate.layer for name, candidate in candidates.items()}
    return Trial(model, list(layers), {name: la.producer for name, la in layers.items() if la.producer}, batches)


def error_of(trial: Trial, candidates: Candidates, name: str, change: Change) -> float:
    with torch.no_grad():
        return change.output_error(trial, candidates[name].layer)


def relative(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).square().mean() / expected.var())


def test_harmless_changes_have_no_error_and_others_more_the_fewer_channels_they_keep() -> None:
    model = Net().eval()
    with torch.no_grad():  # the second half of the prunable channels is the first half again
        model.conv1.weight[8:] = model.conv1.weight[:8]
        model.stem.weight[4:], model.stem.bias[4:] = (  # type: ignore[index]  # it has one
            model.stem.weight[:4].repeat(3, 1, 1, 1),
            model.stem.bias[:4].repeat(3),  # type: ignore[index]  # likewise
        )
    batches = list(torch.randn(64, *SHAPE).split(16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = candidates_of(model)
    trial = trial_of(model, found, batches)

    def error(name: str, change: Change) -> float:
        return error_of(trial, found, name, change)

    assert error("conv1", Prune(8, 8)) < 1e-5
    assert error("conv1", PointwiseGhosts(8, 8)) < 1e-5
    assert error("conv1", MergeInputs(4)) < 1e-5, "the stem's channels are four, each four times"
    assert 1e-5 < error("conv1", MergeInputs(3)) < error("conv1", MergeInputs(1))
    assert 1e-4 < error("conv1", Prune(4, 12)) < error("conv1", Prune(2, 14))
    assert 1e-5 < error("conv2", PointwiseGhosts(8, 8)) < error("conv2", DepthwiseGhosts(8, 8))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model.conv1.bias is None


@pytest.mark.parametrize(
    "option", [LayerPlan(Prune(6, 10)), LayerPlan(PointwiseGhosts(8, 8)), LayerPlan(Keep(16), MergeInputs(6))]
)
def test_the_error_is_what_conversion_in_closed_form_does(option: LayerPlan) -> None:
    model = Net().eval()
    batches = list(torch.randn(256, *SHAPE).split(64))
    found = candidates_of(model)
    (change,) = option.changes
    estimated = error_of(trial_of(model, found, batches), found, "conv1", change)
    faster = convert(model, calibration=batches, plan={"conv1": option}, effort="fast").model
    assert estimated == pytest.approx(relative(outputs_of(faster, batches), outputs_of(model, batches)), rel=0.3)


def test_an_error_is_of_images_that_nothing_was_fitted_to() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 8), nn.ReLU(), nn.Conv2d(32, 10, 1)).eval()
    images = torch.randn(32, *SHAPE)

    def error(batches: list[Tensor]) -> float:
        trial = Trial(model, ["0", "2"], {"2": "0"}, batches)
        with torch.no_grad():
            return trial.error_without_channels("0", 16)

    assert error(list(images.split(8))) > 3 * error([images]), "filters of 16 numbers go through 24 points"


def test_of_several_outputs_each_counts_alike() -> None:
    class Several(Net):
        def forward(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]  # returns several, on purpose
            y = super().forward(x)
            return {"answers": (y, 100 * y.flip(1) + 7), "class": y.argmax(1), "name": "several", "none": None}

    torch.manual_seed(0)
    model, batches = Several().eval(), [torch.randn(32, *SHAPE)]
    plain = Net().eval()
    plain.load_state_dict(model.state_dict())
    layer = nn.Conv2d(16, 16, 3, padding=1)
    errors = [Trial(net, ["conv1"], {}, batches).error_with_layer("conv1", layer) for net in (model, plain)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_a_network_that_returns_no_numbers_is_refused() -> None:
    class Class(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1)

    with pytest.raises(InputError, match="returns no tensors of numbers"):
        Trial(Class().eval(), [], {}, [torch.randn(4, *SHAPE)])


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_error_of_one_convolution_for_a_block_is_what_conversion_does(kernel_size: int) -> None:
    model = create_model("resnet20").eval()
    batches = list(torch.randn(64, 3, 32, 32).split(32))
    counted = count(model, (3, 32, 32))
    found = find_candidates(model, batches[0][:1], counted, offer_for("speedup"), images=batches[0][:4])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change = OneConvolution(32, kernel_size)
    estimated = error_of(trial_of(model, found, batches), found, "layer2.1", change)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    faster = convert(model, calibration=batches, plan={"layer2.1": BlockPlan(change)}, effort="fast").model
    faster.layer3, faster.linear = model.layer3, model.linear  # what makes up for it, behind
    faster.layer2[2] = model.layer2[2]  # type: ignore[index,operator]  # a Sequential
    assert estimated == pytest.approx(relative(outputs_of(faster, batches), outputs_of(model, batches)), rel=0.3)


class InPlace(nn.Module):
    """A block whose output is changed in place behind it, and one that comes later."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, 16, 3, padding=1) for channels in (3, 16))
        self.activation = nn.LeakyReLU(0.1, inplace)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.activation(self.conv1(x))).relu().mean((2, 3)))


def test_what_runs_behind_a_block_in_place_does_not_change_what_it_gave() -> None:
    model, batches = InPlace(inplace=True).eval(), list(torch.randn(32, *SHAPE).split(16))
    assert trial_of(model, candidates_of(model), batches).error("conv2") == 0


def test_a_forward_that_a_user_gave_a_module_is_given_back() -> None:
    model, batches = InPlace(inplace=False).eval(), list(torch.randn(32, *SHAPE).split(16))
    own = model.conv1.forward
    model.conv1.forward = lambda x: 2 * own(x)  # type: ignore[method-assign]  # as a user may
    expected, found = model(batches[0]), candidates_of(model)
    error_of(trial_of(model, found, batches), found, "conv2", PointwiseGhosts(8, 8))
    assert torch.equal(model(batches[0]), expected)


@pytest.mark.parametrize("sizes", [(12, 8, 4), (4, 8, 12)], ids=["the most first", "the fewest first"])
def test_channels_that_are_left_do_not_depend_on_what_was_asked_before(sizes: tuple[int, ...]) -> None:
    model = Net().eval()
    batches, found = list(torch.randn(64, *SHAPE).split(16)), candidates_of(model)
    asked = trial_of(model, found, batches)
    for kept in sizes:
        alone = trial_of(model, found, batches)
        with torch.no_grad():
            rows, same = (trial.best_channels("conv1", kept, 1).sort().values for trial in (asked, alone))
        assert torch.equal(rows, same)
        assert error_of(asked, found, "conv1", Prune(kept, 16 - kept)) == pytest.approx(
            error_of(alone, found, "conv1", Prune(kept, 16 - kept))
        )
