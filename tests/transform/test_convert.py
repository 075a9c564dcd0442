"""Any network becomes its ghost, and what was left is said."""

import copy

import pytest
import torch
import torchvision
from accelerate import init_empty_weights
from torch import nn

from ghostify import GhostConv2d, InputError, convert, create_model

CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_torchvision_classifier_converts_runs_and_gets_cheaper(name: str) -> None:
    with init_empty_weights():
        model = torchvision.models.get_model(name, weights=None)
    model = model.to("meta").eval()
    size = 224
    conversion = convert(model, input_shape=(3, size, size))  # counts by running both
    assert conversion.model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 1000)
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert len(conversion.layers) == convs
    for layer in conversion.layers:
        assert layer.macs_before is not None
        assert layer.macs_after is not None
        if layer.replaced:
            # MACs before is 0 only where a layer serves in training alone, as GoogLeNet's side heads.
            assert layer.macs_after < layer.macs_before or layer.macs_before == 0
        else:
            assert layer.reason
            assert layer.macs_after == layer.macs_before
    assert conversion.replaced


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "densenet121"])
def test_a_converted_network_computes_on_real_images(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=5)
    ghost = convert(model).model
    out = ghost.train()(torch.randn(2, 3, 64, 64))
    out.sum().backward()
    assert out.shape == (2, 5)
    used = [m for m in ghost.modules() if isinstance(m, GhostConv2d)]
    assert all(m.cheap.weight.grad is not None for m in used)


def test_reasons_are_given_for_what_is_left() -> None:
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 32, 3, groups=4),
        nn.Conv2d(32, 4, 3),
        nn.Conv2d(4, 16, 1),
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(32, 1, 3),
    )
    reasons = [layer.reason for layer in convert(model, skip=["5"]).layers]
    assert reasons[:4] == ["", "depthwise", "grouped", "very narrow: 4 channels"]
    # 16 maps of 4 inputs by 1×1: 64 MACs per pixel; 8 of them and 8 ghosts by 3×3: 32 + 72.
    assert reasons[4:6] == ["a ghost would not be cheaper: 104 for 64 MACs per pixel", "skipped by name"]
    assert reasons[6:] == ["very narrow: 1 channel"]


def test_macs_before_and_after_are_the_formulas() -> None:
    [layer] = convert(nn.Sequential(nn.Conv2d(16, 32, 3)), input_shape=(16, 9, 8), ratio=4).layers
    assert layer.macs_before == 32 * 7 * 6 * 16 * 9
    assert layer.macs_after == 8 * 7 * 6 * 16 * 9 + 24 * 7 * 6 * 9


def test_the_original_is_untouched_and_a_second_conversion_changes_nothing() -> None:
    model = create_model("resnet20")
    state = copy.deepcopy(model.state_dict())
    once = convert(model)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not any(isinstance(module, GhostConv2d) for module in model.modules())
    twice = convert(once.model)
    assert twice.replaced == 0
    assert str(twice.model) == str(once.model)
    assert all(torch.equal(a, b) for a, b in zip(once.model.parameters(), twice.model.parameters(), strict=True))


def test_published_ghost_modules_are_left_alone() -> None:
    assert {layer.reason for layer in convert(create_model("ghost_resnet20")).layers} == {"already a part of a ghost"}


def test_a_shared_convolution_stays_shared() -> None:
    shared = nn.Conv2d(16, 16, 3, padding=1)
    ghost = convert(nn.Sequential(shared, nn.ReLU(), shared)).model
    assert isinstance(ghost[0], GhostConv2d)
    assert ghost[0] is ghost[2]


def test_a_convolution_alone_is_replaced_too() -> None:
    assert isinstance(convert(nn.Conv2d(16, 32, 3)).model, GhostConv2d)


def test_skip_takes_names_of_modules_around_and_patterns() -> None:
    replaced = {
        layer.name for layer in convert(create_model("resnet20"), skip=["layer1", "*.conv2"]).layers if layer.replaced
    }
    assert "conv1" in replaced
    assert "layer2.0.conv1" in replaced
    assert not any(name.startswith("layer1") or name.endswith("conv2") for name in replaced)


def test_gates_and_subclasses_that_do_more_are_left() -> None:
    class Activated(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    model = nn.Sequential(nn.Conv2d(16, 32, 3), torchvision.ops.SqueezeExcitation(32, 8), Activated(32, 32, 3))
    reasons = {layer.name: layer.reason for layer in convert(model).layers}
    assert reasons["1.fc1"] == reasons["1.fc2"] == "a squeeze-and-excite gate"
    assert reasons["2"] == "Activated is no plain convolution: it does more than to convolve"


def test_nothing_to_replace_and_a_pattern_for_nothing_are_errors() -> None:
    with pytest.raises(InputError, match="no convolution to replace"):
        convert(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(InputError, match=r"'layer9\.\*' matches no module"):
        convert(create_model("resnet20"), skip=["layer9.*"])
    with pytest.raises(InputError, match="expected a sequence"):
        convert(create_model("resnet20"), skip="conv1")
    with pytest.raises(InputError, match="cannot take an input of"):
        convert(create_model("vgg16_cifar"), input_shape=(3, 8, 8))


def test_multiply_adds_are_left_out_where_no_one_says_how_large_images_are() -> None:
    net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
    assert [layer.macs_before for layer in convert(net).layers] == [None, None]
    assert [layer.macs_before for layer in convert(net, input_shape=(1, 12, 12)).layers] == [28800, 589824]
