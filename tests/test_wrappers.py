"""What other tools put around a network goes, and is said; what cannot be unwrapped is refused in one line."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm.utils
import torch
import torch.distributed as dist
from small import SHAPE, Net
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.optim.swa_utils import AveragedModel

from ghostify import InputError, compare, convert, count, create_model, deploy, export, load, plan, save
from ghostify.models.registry import known_origin
from ghostify.wrappers import unwrapped

IMAGES = torch.randn(32, *SHAPE)


class Bare(nn.Module):
    """Holds an average of weights, and cannot be called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Thin(Bare):
    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class Normalised(Bare):
    """No wrapper: it computes something itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x / 2)


class Parts(nn.Module):
    """A network some of whose parts are wrapped, one of them in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.DataParallel(nn.Conv2d(3, 16, 3, padding=1))
        self.convs = nn.ModuleList([torch.compile(nn.Conv2d(16, 16, 3, padding=1))])
        self.shared = self.stem

    def forward(self, x: Tensor) -> Tensor:
        return self.convs[0](self.stem(x).relu())


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "averaged": AveragedModel,
    "timm's average": timm.utils.ModelEmaV3,
    "bare": Bare,
    "thin": Thin,
    "several": lambda net: torch.compile(nn.DataParallel(AveragedModel(net))),
}


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_is_the_one_inside_and_that_is_said(wrapper: str, caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    found = unwrapped(WRAPPERS[wrapper](net))
    assert type(found) is Net
    assert found.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in found.state_dict().items())
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("taken as the Net inside, without the wrapper")


def test_a_process_groups_wrapper_goes_too(process_group: None) -> None:
    net = Net()
    assert unwrapped(nn.parallel.DistributedDataParallel(net)) is net


@pytest.mark.parametrize(
    "net", [Net(), Normalised(Net()), nn.Sequential(), nn.Sequential(Net()), nn.ModuleList([Net()])]
)
def test_what_is_no_wrapper_is_left_without_a_word(net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    assert unwrapped(net) is net
    assert caplog.messages == []


def test_wrapped_parts_are_unwrapped_in_a_copy_that_shares_their_weights() -> None:
    net = Parts()
    found = unwrapped(net)
    assert list(found.state_dict()) == [
        *("stem.weight", "stem.bias", "convs.0.weight", "convs.0.bias", "shared.weight", "shared.bias")
    ]
    assert found.stem is found.shared
    assert found.stem.weight is net.stem.module.weight
    assert isinstance(net.stem, nn.DataParallel)
    with torch.no_grad():
        assert torch.equal(found(IMAGES), net.convs[0]._orig_mod(net.stem(IMAGES).relu()))


def test_every_public_function_takes_a_wrapped_network(tmp_path: Path, short_blocks: None) -> None:
    net = create_model("small:Net").eval()
    wrapped, example = nn.DataParallel(AveragedModel(net)), IMAGES[:1]
    with torch.no_grad():
        expected = net(IMAGES)
    assert count(wrapped, SHAPE) == count(net, SHAPE)
    assert [layer.name for layer in convert(wrapped).layers] == ["stem", "conv1", "conv2"]
    calibrated = convert(wrapped, calibration=[IMAGES], ratio=2, effort="fast").model
    assert isinstance(calibrated, Net)
    planned = plan(wrapped, example=example, calibration=[IMAGES], target_macs=0.8)
    assert set(planned) <= {"stem", "conv1", "conv2"}
    with torch.no_grad():
        torch.testing.assert_close(deploy(wrapped, example)(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert export(wrapped, tmp_path / "net.onnx", example).path.is_file()
    assert compare(wrapped, net, example, blocks=6).ratio > 0
    save(wrapped, tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "net.safetensors", factory="small:Net")(IMAGES), expected)


def wrapped_net() -> nn.Module:
    return nn.DataParallel(Net())


def test_a_factory_may_wrap_its_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = create_model("test_wrappers:wrapped_net").eval()
    assert isinstance(net, Net)
    assert known_origin(net) is not None
    save(convert(net).model, tmp_path / "net.safetensors")
    ghost = load(tmp_path / "net.safetensors", factory="test_wrappers:wrapped_net")
    assert ghost(IMAGES).shape == (32, 5)
    assert caplog.messages == ["DataParallel: taken as the Net inside, without the wrapper"]


def test_a_network_compiled_in_place_is_counted_and_converted() -> None:
    net = Net()
    net.compile(backend="eager")
    assert count(net, SHAPE) == count(Net(), SHAPE)
    assert convert(net).replaced == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.script(nn.Conv2d(3, 8, 3)), "without layers to change: give the nn.Module"),
        (lambda: torch.jit.trace(Net(), IMAGES), "TopLevelTracedModule is a program without layers"),
        (lambda: torch.export.export(Net(), (IMAGES,)), "ExportedProgram is a program without layers"),
        (lambda: functools.partial(Net), "not the partial that makes one: call it"),
        (lambda: Net, "not the type that makes one: call it"),
        (lambda: Net().state_dict(), "load a state dict into the network"),
        (lambda: "resnet18", r"a network by name is create_model's"),
        (lambda: None, "expected a torch.nn.Module, not NoneType"),
    ],
)
@pytest.mark.parametrize("use", [lambda net: count(net, SHAPE), convert, lambda net: save(net, "a.safetensors")])
def test_what_has_no_modules_is_refused_with_what_would_be_right(
    make: Callable[[], Any], message: str, use: Callable[[Any], Any]
) -> None:
    with pytest.raises(InputError, match=message):
        use(make())


def sharded_parts(net: nn.Module) -> nn.Module:
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    return net


@pytest.mark.parametrize(
    "shard", [sharded_parts, lambda net: FullyShardedDataParallel(net, device_id=torch.device("cpu"))]
)
def test_sharded_weights_are_refused(process_group: None, shard: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(InputError, match=r"sharded over processes \(FSDP\): gather its full state dict"):
        count(shard(Net()), SHAPE)


def test_a_graph_module_is_a_network_like_any_other() -> None:
    graph = torch.fx.symbolic_trace(Net().eval())
    assert count(graph, SHAPE).macs == count(Net(), SHAPE).macs
    assert convert(graph).replaced == 3
