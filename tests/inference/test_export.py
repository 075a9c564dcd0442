"""An exported file gives what the network gives, and one that does not is not left behind."""

import copy
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import onnxscript
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ghostify
from ghostify import GhostConv2d, InputError, create_model, export
from ghostify.cli import main
from ghostify.cli.export import export as verb
from ghostify.errors import first_sentence
from ghostify.inference.engines import FileRunner, Operator, undisturbed_ms
from ghostify.inference.export import ROUNDINGS, SUFFIX, TOLERANCE, move_together
from ghostify.inference.parity import parity


class Small(nn.Module):
    """A ghost, a BatchNorm, a residual sum and a head: what files are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.ghost = nn.Conv2d(3, 16, 3, padding=1), GhostConv2d(16, 16, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head((self.ghost(x) + x).relu().mean((2, 3)))


class Lying(nn.Module):
    """Gives another answer while it is exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        return out + 0.1 if torch.compiler.is_exporting() else out


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_file_takes_any_batch_and_is_checked_with_labels(format: str, small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "new" / ("net.onnx" if format == "onnx" else "net.xml")
    batches = [torch.randn(n, 3, 9, 7) for n in (1, 3)]
    right = [small(x).argmax(1) for x in batches]
    right[1][0] = (right[1][0] + 1) % 4  # one label of four that the network does not give
    report = export(
        small,
        path,
        torch.randn(1, 3, 9, 7),
        format=format,  # type: ignore[arg-type]  # a parameter of the test is any string
        check=zip(batches, right, strict=True),
        preprocessing={"mean": [0.5, 0.5, 0.5]},
    )
    assert report.difference < 1e-5
    assert (report.images, report.agreement, report.top1_before, report.top1_after) == (4, 1, 0.75, 0.75)
    assert [ghost.form for ghost in report.ghosts] == ["split"]
    if format == "onnx":
        sums_are_written_by_convolutions(path)
    note = json.loads(path.with_suffix(".json").read_text())
    assert report.input_shape == (3, 9, 7)
    assert note["input"] == {"name": "images", "shape": ["batch", 3, 9, 7], "dtype": "float32"}
    assert note["preprocessing"] == {"mean": [0.5, 0.5, 0.5]}
    assert note["check"]["engine"] == report.engine
    # Nothing but the file, its weights and its note.
    weights = {"net.bin"} if format == "openvino" else set()
    assert {file.name for file in path.parent.iterdir()} == {path.name, "net.json"} | weights


def sums_are_written_by_convolutions(path: Path) -> None:
    """Of a sum with an activation behind it, one addend is a convolution's that nothing else reads."""
    nodes = onnx.load(path).graph.node
    makers = {name: node for node in nodes for name in node.output}
    readers = [name for node in nodes for name in node.input]
    sums = [
        makers[node.input[0]] for node in nodes if node.op_type == "Relu" and makers[node.input[0]].op_type == "Add"
    ]
    assert len(sums) == 2  # intrinsic maps and ghosts, each with its part of the shortcut
    for node in sums:
        assert any(makers[name].op_type == "Conv" and readers.count(name) == 1 for name in node.input)


def test_a_file_that_gives_something_else_is_refused_and_not_kept(small: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not give what the network gives.*not kept"):
        export(Lying(small), tmp_path / "new" / "deep" / "net.onnx", torch.randn(1, 3, 9, 7))
    assert not list(tmp_path.iterdir())


def far_from_zero(bias: float) -> nn.Module:
    """A network that rounds more than a file may differ: BatchNorm takes a large mean off and divides by little."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    conv, norm = model[0], model[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    nn.init.constant_(norm.running_mean, bias)
    nn.init.constant_(norm.running_var, 0.05)
    return model


def test_a_file_may_differ_by_what_rounding_does_to_the_network_itself(tmp_path: Path) -> None:
    x = torch.rand(4, 3, 9, 7)
    assert export(far_from_zero(0), tmp_path / "near.onnx", x).rounding is None
    report = export(far_from_zero(30_000), tmp_path / "far.onnx", x)
    assert report.rounding is not None
    assert TOLERANCE < report.difference < ROUNDINGS * report.rounding
    with pytest.raises(InputError, match="does not give what the network gives"):
        export(far_from_zero(30_000), tmp_path / "strict.onnx", x, tolerance=TOLERANCE)
    with pytest.raises(InputError, match="does not give what the network gives"):
        export(Lying(far_from_zero(30_000)), tmp_path / "lying.onnx", x)


class Unknown(nn.Module):
    """Ends in an operator that PyTorch's exporter does not have."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 8, 3, padding=1), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.conv(x))


def attended(mask: Tensor | None = None, **options: Any) -> Callable[[Tensor], Tensor]:
    def attend(maps: Tensor) -> Tensor:
        places = maps.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(places, 2 * places, places + 1, mask, **options)

    return attend


@pytest.mark.parametrize(
    "end",
    [
        nn.AdaptiveMaxPool2d(1),
        nn.AdaptiveMaxPool2d((4, 3)),
        lambda maps: F.adaptive_max_pool2d(maps, (None, 2)),
        attended(),
        attended(is_causal=True, scale=0.3),
        attended(torch.rand(35, 35)),
        attended(torch.rand(35, 35) > 0.2),
    ],
)
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_operators_that_the_exporter_lacks_are_written_in_others(end: Any, format: Any, tmp_path: Path) -> None:
    x = torch.randn(3, 3, 7, 5)
    report = export(Unknown(end).eval(), tmp_path / f"network{SUFFIX[format]}", x[:1], format=format, check=[x, x[:2]])
    assert report.difference < 1e-5


class Several(nn.Module):
    """Gives a large output, a small one, a mask and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        x = self.conv(x)
        return {"large": x * 1e6, "small": x.mean((2, 3)), "mask": x > 0.5, "nothing": None}


class Told(FileRunner):
    """Stands for an engine, and gives what it is told to."""

    def __init__(self, outputs: list[Tensor]) -> None:
        self.given = outputs

    def outputs(self, x: Tensor) -> list[Tensor]:
        return self.given


class WithSizes(Several):
    """Gives numbers and text beside the tensors."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"size": tuple(x.shape[2:]), "kind": "maps", "threshold": 0.5} | super().forward(x)


def test_numbers_and_text_beside_the_tensors_are_left_out(tmp_path: Path) -> None:
    network, x = WithSizes().eval(), torch.randn(2, 3, 6, 5)
    export(network, tmp_path / "network.onnx", x[:1], check=[x])
    outputs = onnxruntime.InferenceSession(tmp_path / "network.onnx").run(None, {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs[1]), network(x)["small"])


def test_each_output_is_checked_against_its_own_largest() -> None:
    network, x = Several().eval(), torch.randn(2, 3, 6, 5)
    large, small, mask, _ = network(x).values()
    told = [Told([large, small * 1.5, mask]), Told([large, small, ~mask])]
    half, whole = parity(network, told, [x])
    assert half.difference == pytest.approx(0.5)
    assert whole.difference == 1


def test_what_is_no_tensor_is_left_out_and_a_loader_checks_a_file_whose_name_has_brackets(tmp_path: Path) -> None:
    x = torch.randn(3, 3, 6, 5)
    check = DataLoader(TensorDataset(x, torch.zeros(3)), batch_size=2)
    report = export(Several().eval(), tmp_path / "net[v2].onnx", x, check=check)
    assert (report.images, report.difference < 1e-5) == (3, True)
    assert {file.name for file in tmp_path.iterdir()} == {"net[v2].onnx", "net[v2].json"}


def test_a_file_stays_as_it_was_where_what_lies_beside_it_cannot_be_replaced(tmp_path: Path) -> None:
    made, target = tmp_path / "made" / "net.xml", tmp_path / "target" / "net.xml"
    for file in (made, made.with_suffix(".bin"), target, target.with_suffix(".bin") / "in the way"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(file))
    with pytest.raises(OSError, match="bin"):
        move_together(made, target)
    assert target.read_text() == str(target)
    assert {file.name for file in target.parent.iterdir()} == {"net.xml", "net.bin"}


def test_bad_input_is_refused_in_a_line(small: nn.Module, tmp_path: Path) -> None:
    example = torch.randn(1, 3, 9, 7)
    with pytest.raises(InputError, match="expected one of onnx, openvino"):
        export(small, tmp_path / "a.onnx", example, format="tflite")  # type: ignore[arg-type]  # no such format
    with pytest.raises(InputError, match=r"expected an input \[batch, channels, height, width\]"):
        export(small, tmp_path / "a.onnx", [1.0])  # type: ignore[arg-type]  # no tensor
    with pytest.raises(InputError, match=r"ends in \.xml"):
        export(small, tmp_path / "a.onnx", example, format="openvino")
    with pytest.raises(InputError, match="at least one batch"):
        export(small, tmp_path / "a.onnx", example, check=[])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(InputError, match="onnxruntime cannot run the network"):
        FileRunner(broken, "onnxruntime")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.onnx"]


def test_undisturbed_is_the_sum_of_what_each_operator_took_at_least() -> None:
    assert undisturbed_ms([Operator("a", "Conv", (3, 1, 2)), Operator("b", "Add", (5, 6, 9))]) == 6


class Gated(nn.Module):
    """A squeeze-and-excite gate between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.gate(x.mean((2, 3), keepdim=True)).sigmoid() * x).mean((2, 3))


def test_onnxruntime_gets_gates_and_means_that_take_blocks_of_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = export(Gated().eval(), tmp_path / "net.onnx", torch.randn(2, 3, 9, 7))
    assert report.difference < 1e-5
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert kinds.count("GlobalAveragePool") == kinds.count("Resize") == 1
    assert kinds.count("ReduceMean") == 1  # the last one leaves no maps
    assert export(Gated().eval(), tmp_path / "net.xml", torch.randn(2, 3, 9, 7), format="openvino").difference < 1e-5


def test_a_file_is_kept_whatever_name_its_engine_was_installed_under(
    small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of onnxruntime-gpu, whose module is onnxruntime."""

    def not_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.Distribution.from_name", not_installed)
    export(small, tmp_path / "net.onnx", torch.randn(1, 3, 9, 7))
    versions = json.loads((tmp_path / "net.json").read_text())["versions"]
    assert versions == {
        "ghostify": ghostify.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


class OnAnotherDevice(nn.Module):
    """A network of a device that is not the batches', where single precision may be less than that."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0, device="meta"))
        self.answers = network

    def forward(self, x: Tensor) -> Tensor:
        assert x.device == self.place.device
        assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
        return self.answers(torch.ones(x.shape))


def test_a_check_moves_its_batches_to_the_network_which_computes_in_whole_float32(small: nn.Module) -> None:
    x = torch.ones(2, 3, 9, 7)
    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    (found,) = parity(OnAnotherDevice(small), [Told([small(x)])], [(x, small(x).argmax(1))])
    assert (found.difference, *found.top1) == (0, 1, 1)
    assert before == (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)


@pytest.mark.parametrize("data", [[], ["--data", "digits", "--images", "3"]])
def test_the_verb_exports_a_network_of_the_device_that_is_named(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for a GPU: nothing is computed before the file is written."""
    seen: list[torch.device] = []

    def stop(network: nn.Module, path: Path, example: Tensor, **options: object) -> None:
        seen.extend((*(p.device for p in network.parameters()), example.device))
        raise InputError("seen")

    monkeypatch.setattr("ghostify.cli.export.export_network", stop)
    (option,) = (option for option in verb.params if option.name == "device")
    monkeypatch.setattr(option, "callback", lambda context, parameter, value: "meta" if value == "cuda" else value)
    assert main(["export", "resnet20", *data, "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert {device.type for device in seen} == {"meta"}


class Written(nn.Module):
    """Pools by the size of its maps and writes into slices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).sigmoid()
        y[:, :2] = (y[:, :2] * 2 - 0.5) * 8
        y[:, 2:4] = (y[:, 2:4] * 2) ** 2
        return nn.functional.avg_pool2d(y, y.shape[2:]).flatten(1)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_what_is_written_into_slices_and_pooled_by_size_is_exported(format: str, tmp_path: Path) -> None:
    path = tmp_path / ("net.onnx" if format == "onnx" else "net.xml")
    x = torch.randn(2, 3, 9, 7)
    report = export(Written().eval(), path, x[:1], format=format, check=[x])  # type: ignore[arg-type]  # any string
    assert report.difference < 1e-5


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_network_in_float16_is_exported_and_checked_in_it(format: str, small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / ("net.onnx" if format == "onnx" else "net.xml")
    x = torch.randn(2, 3, 9, 7)
    half = copy.deepcopy(small).half()
    report = export(half, path, x[:1].half(), format=format, check=[x])  # type: ignore[arg-type]  # any string
    assert 0 <= report.difference < 1e-2
    assert json.loads(path.with_suffix(".json").read_text())["input"]["dtype"] == "float16"


def in_bf16(m: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m(x).float()


class Around(nn.Module):
    """A network that is run in some way."""

    def __init__(self, network: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.network, x)


def test_types_that_an_engine_does_not_have_are_refused_with_what_to_do(small: nn.Module, tmp_path: Path) -> None:
    x, path = torch.randn(1, 3, 9, 7), tmp_path / "net.onnx"
    wanted = r"expected (one|a network) in float32, as model\.float\(\) makes it"
    with pytest.raises(InputError, match=wanted):
        export(copy.deepcopy(small).bfloat16(), path, x.bfloat16())
    with pytest.raises(InputError, match=wanted + r", without torch\.autocast"):
        export(Around(small, in_bf16).eval(), path, x)
    with pytest.raises(InputError, match=wanted):
        export(copy.deepcopy(small).double(), path, x.double())
    assert not list(tmp_path.iterdir())
    double = export(copy.deepcopy(small).double(), path.with_suffix(".xml"), x.double(), format="openvino")
    assert double.difference < 1e-5


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "Check 'x' failed at a.cpp:1:\n\nOperators are missing: a,\nb\n  frame",
            "Check 'x' failed at a.cpp:1: Operators are missing: a, b frame",
        ),
        ("\x1b[96mCannot do\nso. More of it.\nNext steps: none", "Cannot do so. More of it."),
        ("Sizes do not match\n\nWhile executing %x", "Sizes do not match"),
    ],
)
def test_a_message_of_another_library_is_not_cut_within_its_sentence(message: str, sentence: str) -> None:
    assert first_sentence(message) == first_sentence(RuntimeError(message)) == sentence
    assert first_sentence(KeyError()) == "KeyError"
    assert first_sentence("a" * 1000) == "a" * 300 + " …"


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_network_gives_the_same_file_each_time_and_it_says_nothing_of_this_machine(
    format: Any, tmp_path: Path
) -> None:
    model, x = create_model("resnet20").eval(), torch.zeros(1, 3, 32, 32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)  # else the convolutions have none
    files = [tmp_path / f"{name}{SUFFIX[format]}" for name in "ab"]
    for file in files:
        export(model, file, x, format=format)
        export(nn.Conv2d(3, 4, 3), tmp_path / f"between{SUFFIX[format]}", x, format=format)  # counters go on
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert b"site-packages" not in first
    assert b"deploy.py" not in first


def test_a_file_holds_no_constant_that_nothing_takes(tmp_path: Path) -> None:
    """ONNX Runtime would warn of each when it opens the file."""

    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x).flatten(2)
            return torch.cat([maps[:, :, :9], maps[:, :, 9:]], 2).sum(2)

    export(Sliced(), tmp_path / "network.onnx", torch.randn(1, 3, 12, 12))
    graph = onnx.load(tmp_path / "network.onnx").graph
    taken = {name for node in graph.node for name in node.input}
    assert {constant.name for constant in graph.initializer} <= taken
