"""A file in int8: what NNCF makes of it, what it costs and gains, and a collapse that is said and mended."""

import copy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ghostify import InputError, Int8, deploy, export, needed
from ghostify.inference import in_int8, quantize
from ghostify.inference.export import SUFFIX, Format, write_onnx, write_openvino
from ghostify.inference.file_network import FileNetwork
from ghostify.inference.quantize import images_for_ranges, layer_of, quantise_file, quantizer
from ghostify.measure.environment import sums_int8_exactly

FORMATS: tuple[Format, ...] = ("onnx", "openvino")


class Small(nn.Module):
    """Four classes by two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x).relu()).relu().mean((2, 3)))


class Lopsided(nn.Module):
    """Answers by maps that are a thousandth of another one, which says nothing: eight bits hold only that."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.stem.weight[0] = 0
            self.stem.bias[0] = 3000.0
            self.conv.weight[:, 0] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x).relu()).relu().mean((2, 3)))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of a few calls: how long they take is no matter here."""
    monkeypatch.setattr(in_int8, "BLOCK_MS", 1.0)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(60) % 4


@pytest.fixture(scope="module")
def images(labels: Tensor) -> Tensor:
    """Images of four patterns."""
    drawn = torch.Generator().manual_seed(0)
    patterns = torch.randn(4, 3, 8, 8, generator=drawn)
    return patterns[labels] + 0.2 * torch.randn(60, 3, 8, 8, generator=drawn)


@torch.no_grad()
def taught(network: Small | Lopsided, images: Tensor, labels: Tensor) -> nn.Module:
    """The network with a head that tells the patterns."""
    network.eval()
    features = network.conv(network.stem(images).relu()).relu().mean((2, 3))
    known = torch.cat([features, torch.ones(60, 1)], 1).double()
    solved = torch.linalg.lstsq(known, torch.eye(4).double()[labels]).solution.float()
    network.head.weight.copy_(solved[:-1].T)
    network.head.bias.copy_(solved[-1])
    return network


@pytest.fixture(scope="module")
def small(images: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(0)
    return taught(Small(), images, labels)


@pytest.fixture(scope="module")
def lopsided(images: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(1)
    return taught(Lopsided(), images, labels)


def quantised_weights(path: Path) -> list[Any]:
    """The weights that an ONNX file has in eight bits."""
    graph = onnx.load(path).graph
    kept = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in kept]
    return [array for array in arrays if array.ndim > 1]


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_is_in_int8_and_its_report_says_what_that_costs_and_gains(
    format: Format, small: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / f"net{SUFFIX[format]}"
    once = (images[i : i + 20] for i in range(0, 60, 20))  # of which nothing can be asked for twice
    check = ((images[i : i + 25], labels[i : i + 25]) for i in range(0, 60, 25))
    report = export(small, path, images[:1], format=format, int8=once, check=check)
    int8 = report.int8
    assert int8 is not None
    assert report.difference < 1e-5
    assert (report.images, int8.images, int8.layers, int8.in_fp32) == (60, 60, 3, ())
    assert report.top1_after == 1
    assert int8.top1 == int8.agreement
    assert int8.agreement is not None
    assert int8.agreement > 0.95
    assert int8.lost == ""
    assert 0 < int8.output_error < 0.1
    assert int8.latency.precisions == ("fp32", "int8")
    assert int8.latency.engine == report.engine
    assert {file.name for file in tmp_path.iterdir()} == {f"net{s}" for s in FILES[format]}
    if format == "onnx":
        assert len(quantised_weights(path)) == 3
    else:
        kinds = {layer.get("type") for layer in ElementTree.parse(path).getroot().iter("layer")}
        assert "FakeQuantize" in kinds
    network = FileNetwork(path)
    assert float((network(images).argmax(1) == labels).float().mean()) == int8.top1


FILES = {"onnx": (".onnx", ".json"), "openvino": (".xml", ".bin", ".json")}


# NNCF's own three lines, and its network in memory; a process of its own, as importing it changes logging.
IN_MEMORY = """
import os, sys
os.environ["NNCF_CI"] = "1"  # no report of its use
import nncf, numpy, onnx, onnxruntime, openvino
engine, path, exact = sys.argv[1:]
arrays = numpy.load("images.npy")
fix = nncf.OverflowFix.DISABLE if exact == "True" else nncf.OverflowFix.ENABLE
usual = {"preset": nncf.QuantizationPreset.PERFORMANCE, "subset_size": len(arrays)}
usual["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
if engine == "onnxruntime":
    shown = nncf.Dataset([{"images": arrays[i : i + 1]} for i in range(len(arrays))])
    made = nncf.quantize(onnx.load(path), shown, **usual)
    outputs = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"images": arrays})[0]
else:
    core = openvino.Core()
    shown = nncf.Dataset([arrays[i : i + 1] for i in range(len(arrays))])
    made = nncf.quantize(core.read_model(path), shown, **usual)
    outputs = core.compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([arrays])[0]
numpy.save("outputs.npy", outputs)
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_file_gives_what_the_quantised_network_gives_in_memory(
    engine: str, small: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    deployed, suffix = deploy(small, images[:1]), ".onnx" if engine == "onnxruntime" else ".xml"
    source, out = tmp_path / f"net{suffix}", tmp_path / f"int8{suffix}"
    if engine == "onnxruntime":
        write_onnx(deployed, source, images[:1], engine=engine)
    else:
        write_openvino(deployed, source, images[:1])
    np.save(tmp_path / "images.npy", images.numpy())
    asked = [sys.executable, "-c", IN_MEMORY, engine, str(source), str(sums_int8_exactly())]
    subprocess.run(asked, cwd=tmp_path, check=True, capture_output=True)
    quantise_file(source, out, engine=engine, images=images)
    np.testing.assert_allclose(FileNetwork(out)(images).numpy(), np.load(tmp_path / "outputs.npy"), rtol=0, atol=1e-6)


def test_without_exact_sums_weights_use_half_of_their_range(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = {}
    for exact in (True, False):
        monkeypatch.setattr(quantize, "sums_int8_exactly", lambda exact=exact: exact)
        report = export(small, tmp_path / f"{exact}.onnx", images[:1], int8=[images])
        assert report.int8 is not None
        assert report.int8.overflow_fix is not exact
        weights = quantised_weights(tmp_path / f"{exact}.onnx")
        largest[exact] = max(int(np.abs(array.astype(int)).max()) for array in weights)
    assert largest == {True: 127, False: 63} or largest == {True: 127, False: 64}


@pytest.mark.parametrize("format", FORMATS)
def test_a_collapse_is_said_and_accuracy_control_leaves_what_causes_it_in_float32(
    format: Format, lopsided: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / f"net{SUFFIX[format]}"
    collapsed = export(lopsided, path, images[:1], format=format, int8=[images]).int8
    assert collapsed is not None
    assert collapsed.agreement is not None
    assert collapsed.agreement < 0.7
    assert "the first answer of" in collapsed.lost
    assert "int8=Int8(images, max_accuracy_drop=1) leaves layers in float32" in collapsed.lost
    mended = export(lopsided, path, images[:1], format=format, int8=Int8([images], 0.0)).int8
    assert mended is not None
    assert mended.agreement == 1
    assert mended.judges == 60
    assert "conv" in mended.in_fp32
    assert mended.lost in ("", "no layer could stay in int8: the file in float32 is as good")
    assert bool(mended.lost) == (len(mended.in_fp32) == mended.layers)


def test_images_with_labels_judge_a_drop_where_there_are_some(
    lopsided: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    left = {}
    for name, said in (("right", labels), ("wrong", torch.zeros(60))):
        judges = [(images[:30], said[:30]), (images[30:], said[30:])]
        report = export(lopsided, tmp_path / "net.onnx", images[:1], int8=Int8([images], 1, judges))
        assert report.int8 is not None
        left[name] = report.int8.in_fp32
    assert "conv" in left["right"]
    assert left["wrong"] == ()  # where hardly an answer is right before, nothing can be lost


def test_a_drop_that_cannot_be_kept_to_is_refused_and_nothing_is_left(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = quantizer().ask

    def worse(question: str, **details: Any) -> Any:
        return asked(question, **details) | {"lost": 0.2}

    monkeypatch.setattr(quantizer(), "ask", worse)
    with pytest.raises(InputError, match=r"keeps to a drop of 1 points: 20\.00 are lost"):
        export(small, tmp_path / "net.onnx", images[:1], int8=Int8([images], 1))
    assert not list(tmp_path.iterdir())


def test_where_outputs_are_no_classes_the_error_tells_a_collapse(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(1)
    maps = nn.Sequential(*list(Lopsided().children())[:2]).eval()
    int8 = export(maps, tmp_path / "net.onnx", images[:1], int8=[images]).int8
    assert int8 is not None
    assert int8.agreement is None
    assert "of its outputs' variance: the file in float32 has none of it" in int8.lost
    with pytest.raises(InputError, match=r"does not answer with one of several classes.*leave max_accuracy_drop out"):
        export(maps, tmp_path / "other.onnx", images[:1], int8=Int8([images], 1))


def test_what_cannot_serve_is_refused_in_a_line(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for drop in (-1, 100, float("nan")):
        with pytest.raises(InputError, match="expected points of top-1 from 0 to below 100"):
            Int8([images], drop)
    with pytest.raises(InputError, match="expected max_accuracy_drop beside them"):
        Int8([images], judges=[images])
    path = tmp_path / "net.onnx"
    for batches, why in (
        ([], "expected images"),
        ([images, images[..., :4]], r"images of \(3, 8, 4\): expected \(3, 8, 8\)"),
        ([["a"]], "expected batches .* not a list"),
        ([{"x": images}], "not a dict"),
        ([()], "not a tuple"),
        (images, "expected several batches .* not a tensor"),
        (True, "not a bool"),
        (5, "not a int"),
        ([images * torch.nan], "NaN or infinite"),
    ):
        with pytest.raises(InputError, match=f"int8: .*{why}"):
            export(small, path, images[:1], int8=batches)
    assert export(small, path, images[:1], int8=False).int8 is None
    for labels in (torch.zeros(60, 1), torch.zeros(60, 4), torch.zeros(59), torch.full((60,), 0.5), [0] * 60, None):
        for asked in ({"check": [(images, labels)]}, {"int8": Int8([images], 1, [(images, labels)])}):
            with pytest.raises(InputError, match="expected the number of a class for each of 60 images"):
                export(small, path, images[:1], **asked)
    with pytest.raises(InputError, match="the network is right for none of them"):
        export(small, path, images[:1], int8=Int8([images], 1, [(images, torch.full((60,), 77))]))
    (tmp_path / "folder.onnx").mkdir()
    for odd in (tmp_path / "folder.onnx", path / "under_a_file.onnx"):
        with pytest.raises(InputError, match="cannot be written"):
            export(small, odd, images[:1], int8=[images])
    with pytest.raises(InputError, match="a network is quantised from float32"):
        export(copy.deepcopy(small).half(), path, images[:1].half(), int8=[images])
    export(small, path, images[:1], int8=[images])
    with pytest.raises(InputError, match=r"net\.onnx is in int8 as it is"):
        quantise_file(path, tmp_path / "twice.onnx", engine="onnxruntime", images=images)
    monkeypatch.setattr(needed, "find_spec", lambda name: None if name == "nncf" else util.find_spec(name))
    with pytest.raises(InputError, match=r"int8 needs the package nncf, .*: pip install 'ghostify\[int8\]'"):
        export(small, path, images[:1], int8=[images])


def test_a_process_that_died_is_replaced_and_one_that_dies_is_said(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer().process.kill()
    quantizer().process.wait()
    assert export(small, tmp_path / "net.onnx", images[:1], int8=[images]).int8 is not None
    process = quantizer()
    stored = process.stored

    def dying(name: str, x: Tensor) -> str:
        process.process.kill()
        return stored(name, x)

    monkeypatch.setattr(process, "stored", dying)
    with pytest.raises(InputError, match="the process of nncf died"):
        export(small, tmp_path / "net.onnx", images[:1], int8=[images])


def test_ranges_come_from_the_first_images() -> None:
    example = torch.zeros(1, 1, 2, 2)
    batches = [(torch.full((4, 1, 2, 2), float(i)), torch.zeros(4)) for i in range(5)]
    assert images_for_ranges(batches, example, 10)[:, 0, 0, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert len(images_for_ranges(iter(batches), example, 100)) == 20
    assert images_for_ranges([torch.zeros(2, 1, 2, 2, dtype=torch.uint8)], example).dtype == torch.float32


class WithState(nn.Module):
    """An LSTM over the rows of an image, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(24, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rows(x.transpose(1, 2).flatten(2))[0][:, -1])
        return out


class Twice(nn.Module):
    """A convolution that runs twice is one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu())


@pytest.mark.parametrize("format", FORMATS)
def test_layers_are_counted_once_and_those_in_float32_are_named(format: Format, images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = export(WithState().eval(), tmp_path / f"a{SUFFIX[format]}", images[:1], format=format, int8=[images]).int8
    assert state is not None
    assert state.layers == 2
    assert len(state.in_fp32) == (format == "onnx")  # in OpenVINO's files NNCF quantises the LSTM, too
    twice = export(Twice().eval(), tmp_path / f"b{SUFFIX[format]}", images[:1], format=format, int8=[images]).int8
    assert twice is not None
    assert (twice.layers, twice.in_fp32) == (1, ())
    with pytest.raises(InputError, match="no convolution and no product with weights that could be in int8"):
        export(nn.AvgPool2d(2), tmp_path / f"c{SUFFIX[format]}", images[:1], format=format, int8=[images])


def test_one_output_is_no_choice_of_classes(lopsided: nn.Module, images: Tensor, tmp_path: Path) -> None:
    one = copy.deepcopy(lopsided)
    one.head = nn.Linear(8, 1)
    int8 = export(one.eval(), tmp_path / "net.onnx", images[:1], int8=[images]).int8
    assert int8 is not None
    assert int8.agreement is None
    assert "of its outputs' variance" in int8.lost
    with pytest.raises(InputError, match="does not answer with one of several classes"):
        export(one, tmp_path / "net.onnx", images[:1], int8=Int8([images], 0))


def test_layers_are_named_as_in_the_network() -> None:
    assert layer_of("network.layer1.0.conv1/Conv_2") == "layer1.0.conv1"
    assert layer_of("network.linear/Gemm_54/WithoutBiases") == "linear"
    assert layer_of("Conv_7") == "Conv_7"
