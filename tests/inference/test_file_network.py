"""An exported file is a module that gives what the file gives, and is refused where layers are needed."""

import copy
import json
import multiprocessing
import pickle
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify import FileNetwork, InputError, compare, export
from ghostify.inference import process


class Two(nn.Module):
    """Gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        return {"maps": x, "means": x.mean((2, 3))}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


NETWORK, X = network(), torch.randn(4, 3, 9, 7)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    found = {"onnx": folder / "a.onnx", "openvino": folder / "b.xml"}
    for format, path in found.items():
        export(network(), path, X[:1], format=format, preprocessing={"mean": [0.5] * 3})  # type: ignore[arg-type]  # any string
    return found


@pytest.mark.parametrize(
    ("format", "engine"), [("onnx", None), ("onnx", "openvino"), ("openvino", None), ("openvino", "openvino")]
)
def test_outputs_are_the_networks_and_the_size_is_known(
    format: str, engine: str | None, files: dict[str, Path]
) -> None:
    file = FileNetwork(files[format], engine=engine)
    with torch.no_grad():
        torch.testing.assert_close(file(X), network()(X), rtol=1e-4, atol=1e-5)
    assert file.input_shape == (3, 9, 7)
    assert file.about["preprocessing"] == {"mean": [0.5] * 3}
    with pytest.raises(InputError, match=r"takes inputs \['batch', 3, 9, 7\], not \[4, 3, 7, 9\]"):
        file(X.mT)


def test_a_file_without_a_note_and_with_two_outputs_is_a_network_too(tmp_path: Path) -> None:
    two = Two().eval()
    export(two, tmp_path / "two.onnx", X[:1])
    (tmp_path / "two.json").unlink()
    file = FileNetwork(tmp_path / "two.onnx")
    assert (file.about, file.input_shape) == ({}, (3, 9, 7))
    with torch.no_grad():
        maps, means = file(X)
        torch.testing.assert_close(means, two(X)["means"], rtol=1e-4, atol=1e-5)
    assert maps.shape == (4, 4, 7, 5)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_file_is_compared_with_the_network_that_it_was_made_of(files: dict[str, Path], as_text: bool) -> None:
    file: Any = str(files["openvino"]) if as_text else FileNetwork(files["openvino"])
    found = compare(network(), file, X[:1], engine="openvino", precision=("int8", "fp32"), blocks=6, block_ms=1)
    assert (found.engine, found.precisions) == ("openvino", ("int8", "fp32"))
    assert found.b_ms > 0
    for engine in ("eager", "onnxruntime"):
        with pytest.raises(InputError, match=r"b\.xml cannot run in \w+: expected engine to be openvino"):
            compare(network(), file, X[:1], engine=engine)


CALLS: dict[str, Callable[[nn.Module, Path], object]] = {
    "count": lambda file, _: ghostify.count(file, (3, 9, 7)),
    "convert": lambda file, _: ghostify.convert(file, calibration=[torch.randn(32, 3, 9, 7)]),
    "plan": lambda file, _: ghostify.plan(file, example=X, calibration=[X], target_macs=0.5),
    "deploy": lambda file, _: ghostify.deploy(file, X),
    "export": lambda file, folder: ghostify.export(file, folder / "c.onnx", X),
    "save": lambda file, folder: ghostify.save(file, folder / "c.safetensors"),
    "explain": lambda file, _: ghostify.explain(file, file, X),
    "choose_forms": lambda file, _: ghostify.choose_forms(file, X),
}


def test_a_file_in_int8_stays_so_where_int8_is_asked_for(tmp_path: Path) -> None:
    export(network(), tmp_path / "net.int8.onnx", X[:1], int8=[X])
    found = compare(
        network(), tmp_path / "net.int8.onnx", X[:1], engine="onnxruntime", precision="int8", blocks=6, block_ms=1
    )
    assert found.precisions == ("int8", "int8")


def test_a_note_of_the_other_format_lends_only_what_both_share(files: dict[str, Path]) -> None:
    twin = files["openvino"].with_suffix(".onnx")
    export(network(), twin, X[:1], preprocessing={"mean": [0.1] * 3})
    assert "check" in FileNetwork(twin).about
    assert FileNetwork(files["openvino"]).about.keys() == {"input", "preprocessing"}
    twin.unlink()
    export(network(), files["openvino"], X[:1], format="openvino", preprocessing={"mean": [0.5] * 3})


@pytest.mark.parametrize("name", CALLS)
def test_what_needs_layers_refuses_a_file(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.onnx is an exported file, .*: expected the network that it was made of"):
        CALLS[name](FileNetwork(files["onnx"]), tmp_path)
    with pytest.raises(InputError, match=r"a\.onnx is an exported file"):
        CALLS[name](nn.Sequential(FileNetwork(files["onnx"])), tmp_path)
    assert not list(tmp_path.iterdir())


def wrong_in(file: FileNetwork, batch: Tensor, calls: int) -> int:
    """How often a file gives for a batch what it does not give for it alone."""
    with torch.no_grad():
        wanted = NETWORK(batch)
    return sum(not torch.allclose(file(batch), wanted, atol=1e-4) for _ in range(calls))


def test_threads_get_their_own_answers(files: dict[str, Path]) -> None:
    file = FileNetwork(files["onnx"])
    batches = [torch.randn(n, 3, 9, 7) for n in (1, 2, 5)]
    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(lambda batch: wrong_in(file, batch, 30), batches)) == 0


def test_a_worker_that_ended_with_its_thread_is_replaced(files: dict[str, Path]) -> None:
    file = FileNetwork(files["onnx"])
    thread = Thread(target=lambda: file(X))
    thread.start()
    thread.join()
    assert file.running is not None
    with suppress(subprocess.TimeoutExpired):  # only Linux ends it
        file.running.process.wait(5)
    assert wrong_in(file, X, 2) == 0


def test_an_interrupted_question_is_not_answered_to_the_next_one(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FileNetwork(files["onnx"])
    file(X)
    assert file.running is not None
    stdout = file.running.process.stdout

    class Interrupted:
        def readline(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(process, "pipes", lambda running: (running.stdin, Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        file(torch.randn(1, 3, 9, 7))
    monkeypatch.undo()
    file.running.process.wait(5)
    assert wrong_in(file, X, 2) == 0
    assert file.running.process.stdout is not stdout


def asked_in_child(file: FileNetwork, answer: Any) -> None:
    answer.put(wrong_in(file, X, 1))


def test_a_forked_process_opens_its_own(files: dict[str, Path]) -> None:
    file = FileNetwork(files["onnx"])
    torch.set_num_threads(1)
    file(X)
    forking = multiprocessing.get_context("fork")
    answer = forking.Queue()
    child = forking.Process(target=asked_in_child, args=(file, answer))
    child.start()
    assert answer.get(timeout=60) == 0
    child.join()
    assert wrong_in(file, X, 1) == 0


def test_copies_are_of_the_same_file(files: dict[str, Path]) -> None:
    file = FileNetwork(files["onnx"], engine="openvino")
    file(X)
    for other in (copy.deepcopy(file), pickle.loads(pickle.dumps(file))):
        assert (other.path, other.engine, other.running) == (file.path, "openvino", None)
        assert wrong_in(other, X, 1) == 0


def test_a_relative_path_stays_what_it_was(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files["onnx"].parent)
    file = FileNetwork("a.onnx")
    monkeypatch.chdir("/")
    assert wrong_in(file, X, 1) == 0


def test_what_is_no_file_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "absent.onnx", "there is no file"),
        (tmp_path / "network.safetensors", "which ends in .onnx or .xml"),
    ):
        with pytest.raises(InputError, match=why):
            FileNetwork(path)
    with pytest.raises(InputError, match=r"a\.onnx takes floating-point numbers, not torch\.uint8"):
        FileNetwork(files["onnx"])(X.byte())
    with pytest.raises(InputError, match=r"ends in \.onnx, or format='openvino'"):
        export(network(), tmp_path / "c.xml", X[:1])
    with pytest.raises(InputError, match=r"b\.xml cannot run in onnxruntime"):
        FileNetwork(files["openvino"], engine="onnxruntime")
    with pytest.raises(InputError, match="expected one of onnxruntime, openvino"):
        FileNetwork(files["onnx"], engine="eager")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(InputError, match="onnxruntime cannot run the network"):
        FileNetwork(broken)(X)
    for odd in ({"precision": "int8"}, {"threads": 0}, {"threads": "a"}):
        with pytest.raises(InputError, match=f"{next(iter(odd))} is"):
            FileNetwork(files["onnx"], **odd)  # type: ignore[arg-type]  # that is what is tried
    notes = [{"preprocessing": 1}, {"preprocessing": {"classes": 5}}, {"preprocessing": {"classes": [1]}}]
    for note in ("[]", "{", *map(json.dumps, [*notes, {"input": {"shape": 5}}])):
        broken.with_suffix(".json").write_text(note)
        with pytest.raises(InputError, match=r"is not what export wrote beside broken\.onnx"):
            FileNetwork(broken)
