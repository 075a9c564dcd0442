"""Multiply-adds and parameters, against textbook products and PyTorch's own counter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from ghostify import InputError, count, create_model

# (name, options, params in M, MACs in M), to the digits given: recomputed from Han et al. 2020, tables 4, 5, 7.
PUBLISHED = [
    ("vgg16_cifar", {}, "14.987", "313.46"),
    ("ghost_vgg16_cifar", {"cheap_kernel_size": 1}, "7.634", "157.00"),
    ("ghost_vgg16_cifar", {}, "7.650", "158.11"),  # 7,650,474; sometimes printed as 7.651, rounded twice
    ("ghost_vgg16_cifar", {"cheap_kernel_size": 5}, "7.684", "160.32"),
    ("ghost_vgg16_cifar", {"cheap_kernel_size": 7}, "7.735", "163.64"),
    ("ghost_vgg16_cifar", {"ratio": 3}, "5.218", "107.24"),  # 5,218,476; likewise 5.219
    ("ghost_vgg16_cifar", {"ratio": 4}, "3.982", "80.43"),
    ("ghost_vgg16_cifar", {"ratio": 5}, "3.270", "65.67"),
    ("resnet56", {}, "0.853", "125.49"),
    ("ghost_resnet56", {"cheap_kernel_size": 1}, "0.430", "63.0"),
    ("ghost_resnet56", {}, "0.438", "65.1"),
    ("resnet50", {}, "25.557", "4089"),
    ("ghost_resnet50", {}, "13.954", "2151"),
    ("ghost_resnet50", {"ratio": 4}, "8.152", "1182"),
    ("ghostnet_050", {}, "2.587", "42.33"),
    ("ghostnet_100", {}, "5.183", "141.15"),
    ("ghostnet_110", {}, "5.856", "166.99"),
    ("ghostnet_130", {}, "7.359", "227.00"),
]


@pytest.mark.parametrize(("name", "options", "params", "macs"), PUBLISHED)
def test_the_published_networks_have_the_published_counts(
    name: str, options: dict[str, int], params: str, macs: str
) -> None:
    with torch.device("meta"):
        model = create_model(name, **options)
    counted = count(model, model.ghostify_origin.input_shape)

    def rounded(value: int, like: str) -> str:
        return f"{value / 1e6:.{len(like.partition('.')[2])}f}"

    assert (rounded(counted.params, params), rounded(counted.macs, macs)) == (params, macs)
    assert counted.unknown == {}


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_torchvision_classifier_agrees_with_pytorchs_counter(name: str) -> None:
    with init_empty_weights():
        model = torchvision.models.get_model(name, weights=None)
    model = model.to("meta").eval()
    counted = count(model, (3, 224, 224))
    # The fused attention kernel is invisible to PyTorch's counter, too.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as theirs, torch.no_grad():
            model(torch.empty(1, 3, 224, 224, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert 2 * counted.macs == theirs.get_total_flops()
    assert counted.params == sum(p.numel() for p in model.parameters())
    assert counted.macs == sum(layer.macs for layer in counted.layers)
    assert counted.params == sum(layer.params for layer in counted.layers)
    assert counted.unknown == {}


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3), (3, 7, 9), 8 * 5 * 7 * 3 * 3 * 3),
        (nn.Conv2d(6, 8, (3, 1), stride=2, groups=2), (6, 9, 9), 8 * 4 * 5 * 3 * 3 * 1),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), (4, 6, 5), 4 * 6 * 5 * 5 * 5),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 5), 4 * 3 * 5 * 6 * 2 * 2),
        (nn.Linear(10, 4), (10,), 10 * 4),
        (nn.Linear(10, 4), (7, 10), 7 * 10 * 4),
    ],
)
def test_a_layer_costs_its_textbook_product(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count(layer, shape).macs == macs


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


def test_attention_costs_its_four_projections_and_two_products() -> None:
    assert count(Attention(), (5, 8)).macs == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8


def test_an_operator_without_a_formula_is_listed() -> None:
    class Fourier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft2(x).abs()

    counted = count(Fourier(), (1, 8, 8))
    assert counted.macs == 0
    assert list(counted.unknown) == ["aten._fft_r2c"]


def test_an_operator_of_the_users_own_costs_what_its_registered_formula_says() -> None:
    @torch.library.custom_op("counted::product", mutates_args=())
    def product(x: Tensor) -> Tensor:
        return x @ x

    product.register_fake(torch.empty_like)

    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return product(x[0])

    packet = torch.ops.counted.product
    assert count(Squared(), (6, 6)).unknown == {"counted.product": 1}
    register_flop_formula(packet)(lambda x, out_shape, **_: 2 * x[0] * x[1] * out_shape[1])
    try:
        counted = count(Squared(), (6, 6))
    finally:
        del flop_registry[packet]
    assert (counted.macs, counted.unknown) == (6 * 6 * 6, {})


def test_a_shared_layer_counts_its_parameters_once_and_its_work_each_time() -> None:
    shared = nn.Conv2d(4, 4, 1, bias=False)
    counted = count(nn.Sequential(shared, nn.ReLU(), shared), (4, 3, 3))
    assert (counted.params, counted.macs) == (16, 2 * 16 * 9)
    assert shared.weight.device.type == "cpu"


def test_a_layer_row_has_its_name_kind_and_output() -> None:
    rows = count(create_model("tiny:Tiny"), (3, 6, 5)).layers
    assert [(row.name, row.kind, row.output_shape) for row in rows] == [
        ("conv1", "Conv2d", (16, 6, 5)),
        ("bn1", "BatchNorm2d", (16, 6, 5)),
        ("conv2", "Conv2d", (32, 3, 3)),
        ("head", "Linear", (3,)),
    ]


def test_a_network_that_asks_for_values_is_run_for_real() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum().item() == 0 else x

    assert count(Gated(), (4,)).macs == 16


def test_the_network_is_given_back_as_it_was() -> None:
    model = create_model("tiny:Tiny")
    model.conv2.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    count(model, (3, 8, 8))
    assert model.training
    assert not model.conv2.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("shape", [(), (3, 0, 8), (4, 8, 8), (3, 8)])
def test_an_input_that_the_network_cannot_take_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected positive|cannot take an input of"):
        count(create_model("tiny:Tiny"), shape)


def test_a_size_too_small_for_the_network_is_refused() -> None:
    with pytest.raises(InputError, match="VGGCifar cannot take an input of 3×8×8"):
        count(create_model("vgg16_cifar"), (3, 8, 8))


class Counting(nn.Module):
    """Counts its calls, and does what depends on a number that it drew: no shape alone tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x) * torch.randn(1, device=x.device).item()


def test_a_network_that_has_to_run_is_given_back_with_its_buffers_and_the_random_state() -> None:
    network = Counting()
    calls, state = network.calls, torch.get_rng_state()
    assert count(network, (3, 5, 7)).macs == 4 * 3 * 5 * 3 * 3 * 3
    assert network.calls is calls
    assert calls == 0
    assert torch.equal(torch.get_rng_state(), state)


class Calls(nn.Module):
    """A layer, and what is made of it and of the input."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.run, self.layer = run, layer or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layer, x)


class Choosing(Calls):
    """Asks for a value, so that it has to run for real."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum().item() == 0 else -x)


def called(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def first_of(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)[0]


class Table(nn.Module):
    """Holds parameters without a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.scale = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix * self.scale


@pytest.mark.parametrize("kind", [Calls, Choosing])
@pytest.mark.parametrize(
    ("layer", "run", "shape", "macs"),
    [
        (nn.PReLU(8), called, (8, 4, 4), 0),
        (nn.GLU(1), called, (8, 4, 4), 0),
        (nn.Upsample(scale_factor=2, mode="nearest-exact"), called, (3, 4, 4), 0),
        (nn.LocalResponseNorm(3), called, (4, 4, 4), 0),
        (nn.Embedding(9, 4), lambda layer, x: layer(x.long()), (6,), 0),
        (None, lambda _, x: F.grid_sample(x, x.movedim(1, 3), align_corners=False), (2, 4, 4), 0),
        (None, lambda _, x: F.fold(F.unfold(x, 2), x.shape[2:], 2), (2, 4, 4), 0),
        (None, lambda _, x: x + torch.randn_like(x).cumprod(1).sort(1)[0], (2, 4, 4), 0),
        # Four gates of an LSTM, three of a GRU: each from the input and from what came before, at each of 6 steps.
        (nn.LSTM(5, 7, batch_first=True), first_of, (6, 5), 6 * 4 * 7 * (5 + 7)),
        (
            nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True),
            first_of,
            (6, 5),
            6 * 2 * 4 * 7 * ((5 + 7) + (14 + 7)),
        ),
        (nn.GRU(5, 7, batch_first=True), first_of, (6, 5), 6 * 3 * 7 * (5 + 7)),
        (nn.LSTMCell(5, 7), first_of, (5,), 4 * 7 * (5 + 7)),
        (None, lambda _, x: torch.einsum("bij,bkj->bik", x, x), (3, 4), 3 * 3 * 4),
        (None, lambda _, x: x[0] @ x[0, 0], (3, 4), 3 * 4),
        (None, lambda _, x: torch.dot(x[0], x[0]), (4,), 4),
        (None, lambda _, x: torch.addbmm(x[0], x, x), (4, 4), 4 * 4 * 4),
        (nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding=2), called, (4, 6, 6), 8 * 6 * 6 * 2 * 3 * 3),
        (nn.ConvTranspose2d(4, 8, 3, stride=2, groups=2), called, (4, 5, 5), 4 * 5 * 5 * 4 * 3 * 3),
        (nn.Conv1d(4, 8, 3, padding=1, padding_mode="circular"), called, (4, 5), 8 * 5 * 4 * 3),
        (Table(), called, (3, 4), 3 * 4 * 6),
    ],
)
def test_what_is_a_product_is_counted_and_what_is_none_is_free(
    kind: type[Calls], layer: nn.Module | None, run: Any, shape: tuple[int, ...], macs: int
) -> None:
    counted = count(kind(run, layer), shape)
    assert (counted.macs, counted.unknown) == (macs, {})
    assert counted.params == sum(p.numel() for p in layer.parameters()) if layer else counted.params == 0


@pytest.mark.parametrize(
    "run", [lambda _, x: torch.cdist(x, x), lambda _, x: torch.det(x), lambda _, x: torch.linalg.inv(x)]
)
def test_work_that_no_formula_tells_is_said_to_be_unknown(run: Any) -> None:
    counted = count(Calls(run), (4, 4))
    assert counted.macs == 0
    assert len(counted.unknown) == 1


def within_autocast(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = layer(x)
    return x.float()


def attends_in_autocast(layer: nn.Module, x: Tensor) -> Tensor:
    x = layer(x).flatten(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.scaled_dot_product_attention(x, x, x)


def infers_within(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        x = layer(x)
        with torch.inference_mode(False):
            return x.clone()


@pytest.mark.parametrize("kind", [Calls, Choosing])
@pytest.mark.parametrize(
    ("run", "more"),
    [
        (torch.inference_mode()(called), 0),
        (infers_within, 0),
        (torch.no_grad()(called), 0),
        (torch.enable_grad()(called), 0),
        (torch.autocast("cpu", dtype=torch.bfloat16)(called), 0),
        (within_autocast, 0),
        (attends_in_autocast, 2 * 8 * 8 * 35),
    ],
)
def test_a_mode_that_forward_enters_changes_no_count(kind: type[Calls], run: Any, more: int) -> None:
    counted = count(kind(run, nn.Conv2d(3, 8, 3)), (3, 7, 9))
    assert (counted.macs, counted.unknown) == (8 * 5 * 7 * 3 * 3 * 3 + more, {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [Calls, Choosing])
def test_a_network_of_another_type_costs_the_same(kind: type[Calls], dtype: torch.dtype) -> None:
    network = kind(called, nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())).to(dtype)
    counted = count(network, (3, 7, 9))
    assert (counted.macs, counted.unknown) == (8 * 5 * 7 * 3 * 3 * 3, {})
