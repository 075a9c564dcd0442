"""The whole road, small."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Blocks, Net
from torch import nn

from ghostify import FileNetwork, InputError, load
from ghostify.data import load_data
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.run_settings import RunSettings, Tuning
from ghostify.verbs.run import run

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network that tells bright colours apart, as a user would have it: of a class with arguments."""
    torch.manual_seed(0)
    model = Blocks()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(30):
        x, labels = colourful(64, 100 + step)
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def colourful(images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of 8×8 pixels with one of three channels brighter."""
    labels = torch.arange(images) % 3
    x = torch.rand(images, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(images), labels] += 1.0
    return x, labels


def batches(labelled: bool) -> list[Any]:
    made = [colourful(40, seed) for seed in range(5)]
    return list(made) if labelled else [x for x, _ in made]


SETTINGS = {"target_speedup": 1.3, "tune": 2, "images": 64, "effort": "fast", "engine": "onnxruntime"}


def hashes(folder: Path) -> dict[str, str]:
    """Digests of what a run is for: networks and files for the engine."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".onnx", ".xml", ".bin", ".safetensors")]
    found = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    layers = json.dumps(json.loads((folder / "plan.json").read_text())["layers"])  # not how quiet the machine was
    return found | {"plan.json": hashlib.sha256(layers.encode()).hexdigest()}


def test_a_trained_network_and_a_speed_in_a_file_and_the_proof_out(trained: nn.Module, tmp_path: Path) -> None:
    said: list[str] = []
    found = run(trained, batches(labelled=True), out=tmp_path, say=said.append, **SETTINGS)
    original, mine = found.table
    assert (original.kind, mine.kind) == ("original", "ours")
    assert original.score > 0.9
    assert mine.agreement > 0.8
    assert mine.macs < original.macs
    assert found.files == (tmp_path / "network.onnx",)
    x, _ = colourful(16)
    found.model.eval()
    torch.testing.assert_close(FileNetwork(found.files[0])(x), found.model(x).detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(load(tmp_path / "network.safetensors")(x), found.model(x))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(found.metrics))
    assert [one["name"] for one in metrics["networks"]] == ["original", "planned 1.3×"]
    tuned = metrics["tuning"]["planned 1.3×"]
    assert tuned["rate"] == float(min(tuned["tried"], key=tuned["tried"].__getitem__))
    assert tuned["epochs"] == 2
    assert metrics["score"] == "top-1"
    assert found.findings[0].startswith("planned 1.3×: top-1 ")
    assert re.search(r"times as (fast|slow)|slower|faster", found.findings[0])
    assert any(line.startswith("about ") and "plan" in line for line in said)
    page = found.report.read_text()
    assert page.count("<svg ") >= 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


class TooFarError(Exception):
    """A death, from a progress report."""


def interrupted(after: int) -> Any:
    """Progress that ends the run at its n-th report."""
    left = iter(range(after))

    def progress(*_: Any) -> None:
        if next(left, None) is None:
            raise TooFarError

    return progress


def test_interrupted_and_called_again_it_ends_with_the_same_files(trained: nn.Module, tmp_path: Path) -> None:
    settings = {**SETTINGS, "int8": True, "target_speedup": 4.0}
    reports: list[str] = []
    run(trained, batches(False), out=tmp_path / "a", progress=lambda task, *_: reports.append(task), **settings)
    undisturbed = hashes(tmp_path / "a")
    assert {"network.int8.onnx", "network.safetensors", "plan.json"} <= undisturbed.keys()
    for death in range(10):
        with pytest.raises(TooFarError):
            run(trained, batches(False), out=tmp_path / "b", progress=interrupted(death), **settings)
    found = run(trained, batches(False), out=tmp_path / "b", **settings)
    assert hashes(tmp_path / "b") == undisturbed
    assert found.table[0].agreement == 1
    assert [(r.name, r.precision) for r in found.table[:2]] == [("original", "fp32"), ("original", "int8")]


def test_a_finished_run_gives_its_result_again_at_once(trained: nn.Module, tmp_path: Path) -> None:
    first = run(trained, batches(True), out=tmp_path, **SETTINGS)
    written = first.files[0].read_bytes()
    first.files[0].unlink()
    reports: list[str] = []
    again = run(trained, batches(True), out=tmp_path, progress=lambda task, *_: reports.append(task), **SETTINGS)
    assert again.table == first.table
    assert first.files[0].read_bytes() == written
    assert not any(task.startswith(("sensitivity", "tune", "measure the whole")) for task in reports)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"target_speedup": 1.4}, "holds another run .target speedup: 1.3, now 1.4.: choose another out, or remove it"),
        ({"target_speedup": None}, "expected one of target_speedup, max_accuracy_drop and sweep"),
        ({"max_accuracy_drop": 1.0}, "expected one of target_speedup, max_accuracy_drop and sweep"),
        ({"target_speedup": 1.0}, "target_speedup is 1: expected more than 1"),
        ({"tune": "long"}, "tune is 'long': expected a whole number of epochs, such as 5, or minutes, such as 10min"),
        ({"tune": 2.5}, "tune is 2.5: expected a whole number of epochs"),
        ({"engine": "tensorrt"}, "engine is 'tensorrt': expected one of "),
        ({"images": 5}, "images is 5: expected at least 32"),
        ({"threads": 0}, "threads is 0: expected at least 1"),
        ({"threads": "2"}, "threads is '2': expected at least 1"),
        ({"target_speedup": "2"}, "target_speedup is '2': expected more than 1"),
        ({"target_speedup": float("inf")}, "target_speedup is inf: expected more than 1"),
        ({"effort": "slow"}, "effort is 'slow': expected fast or refined"),
        ({"seed": -1}, "seed is -1: expected 0 to"),
        ({"skip": ["*conv*", "stem"]}, "no convolution of Blocks can be made cheaper: "),
        ({"skip": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_serve_is_refused_before_any_work(
    trained: nn.Module, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    other = "target_speedup" in change and change["target_speedup"] == 1.4
    if other:
        run(trained, batches(True), out=tmp_path, **{**SETTINGS, "tune": 0})
        change = {**change, "tune": 0}
    before = sorted(tmp_path.rglob("*"))

    def progress(*_: Any) -> None:
        raise AssertionError("work began")

    with pytest.raises(InputError, match=line):
        run(trained, batches(True), out=tmp_path, progress=progress, **{**SETTINGS, **change})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ([torch.zeros(4, 3, 8, 8)], "data: 4 images"),
        ([(torch.zeros(64, 3, 8, 8), torch.zeros(3))], "data: expected batches of inputs"),
        ([torch.zeros(64, 3, 8)], "data: expected batches of inputs"),
        ([torch.zeros(64, 3, 8, 8, dtype=torch.uint8)], "that are normalised"),
        (["photo.jpg"], "data: expected batches of inputs"),
        (None, "data is a NoneType: expected batches, or a reference such as imagefolder:DIR"),
        ([torch.rand(64, 3, 8, 8), torch.rand(64, 3, 9, 9)], "data: inputs of .* expected one shape for all"),
        ([torch.full((64, 3, 8, 8), float("nan"))], "data: a batch has NaN or infinite numbers"),
        ([torch.rand(64, 1, 8, 8)], "Blocks cannot take inputs of 1×8×8: "),
        ([(torch.rand(64, 3, 8, 8), torch.zeros(64))], "data: expected batches of inputs"),
    ],
)
def test_images_that_cannot_serve_are_refused(trained: nn.Module, tmp_path: Path, data: Any, line: str) -> None:
    with pytest.raises(InputError, match=line):
        run(trained, data, out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("test", "line"),
    [
        ([], "test: no batches"),
        ([torch.rand(8, 3, 8, 8)], "data and test: expected labels in both, or in none"),
        ([(torch.rand(8, 3, 9, 9), torch.zeros(8).long())], "test: inputs of .* expected those of data"),
        ([(torch.rand(8, 3, 8, 8), torch.zeros(8))], "test: expected batches of inputs"),
    ],
)
def test_test_images_that_cannot_serve_are_refused(trained: nn.Module, tmp_path: Path, test: Any, line: str) -> None:
    with pytest.raises(InputError, match=line):
        run(trained, batches(True), test=test, out=tmp_path / "out", **SETTINGS)
    with pytest.raises(InputError, match="test: data has test images of its own"):
        run(trained, "digits", test=test, out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_batches_of_their_own_judge(trained: nn.Module, tmp_path: Path) -> None:
    x, labels = colourful(30, seed=7)
    wrong = [(x, (labels + 1) % 3)]
    found = run(trained, batches(True), test=wrong, out=tmp_path, **{**SETTINGS, "tune": 0})
    assert found.table[0].score < 0.1
    assert "30 images" in found.findings[0]


def one_channel() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda f: f.__name__)
def test_it_leaves_the_network_and_random_numbers_as_they_are_wherever_it_is_called(tmp_path: Path, mode: Any) -> None:
    network = one_channel().train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    images = torch.rand(100, 1, 12, 20, generator=torch.Generator().manual_seed(1)).double()
    with mode():
        found = run(network, [images], out=tmp_path, **{**SETTINGS, "tune": 1})
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert found.table[1].macs < found.table[0].macs


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = Blocks()
    network.stem.weight.data[0] = float("nan")
    with pytest.raises(InputError, match=r"stem.weight has NaN or infinite numbers: expected a trained network"):
        run(network, batches(False), out=tmp_path / "out", **SETTINGS)


@pytest.mark.parametrize("place", ["file", "file/deeper", "/proc/ghostify"])
def test_where_nothing_can_be_written_nothing_begins(trained: nn.Module, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file|proc"):
        run(trained, batches(False), out=tmp_path / place, **SETTINGS)


def test_a_network_of_many_outputs_that_are_no_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not answer with one of several classes"):
        run(nn.Conv2d(3, 8, 3), batches(False), out=tmp_path / "out", **SETTINGS)


def test_a_sweep_has_a_folder_for_each_speed_and_rivals_are_rows(trained: nn.Module, tmp_path: Path) -> None:
    settings = {**SETTINGS, "target_speedup": None, "sweep": True, "tune": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ghostify.jobs.run_settings.SWEEP", (1.2, 1.5))
        found = run(trained, batches(True), out=tmp_path, rivals=True, **settings)
    assert [one.name for one in found.table if one.precision == "fp32"] == [
        *("original", "planned 1.2×", "planned 1.5×", "paper's ghost", "Torch-Pruning")
    ]
    assert [one.name for one in found.table if one.precision == "int8"] == ["original", "planned 1.2×", "planned 1.5×"]
    assert found.files == (tmp_path / "speed-1.2" / "network.onnx", tmp_path / "speed-1.5" / "network.onnx")
    assert all(file.exists() for file in found.files)
    assert found.table[2].macs > found.table[4].macs


def test_what_int8_alone_reaches_needs_no_learning(trained: nn.Module, tmp_path: Path) -> None:
    said: list[str] = []
    found = run(trained, batches(True), out=tmp_path, say=said.append, **{**SETTINGS, "int8": True})
    assert "as fast as asked in int8 without any change: nothing to learn" in said
    assert found.metrics["tuning"] == {"planned 1.3×": None}
    assert not list((tmp_path / "steps").glob("tuned*"))
    assert found.table[2].macs == found.table[0].macs


def test_an_allowed_drop_is_a_target(trained: nn.Module, tmp_path: Path) -> None:
    settings = {**SETTINGS, "target_speedup": None, "max_accuracy_drop": 5.0, "tune": 0}
    found = run(trained, batches(True), out=tmp_path, **settings)
    assert found.table[1].name == "planned for the drop"
    assert found.table[1].macs < found.table[0].macs


def test_a_network_without_weights_is_trained_first(colours: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "images": 32, "tune": 1}
    data = load_data(f"npz:{colours}", hold_out=0.2)
    recipe = Recipe(epochs=20, batch_size=16, lr=0.05)
    found = run(Blocks(), data, out=tmp_path, recipe=recipe, **settings)
    assert found.table[0].score > 0.9
    assert (tmp_path / "steps" / "original.safetensors").exists()


def test_a_network_that_cannot_be_rebuilt_is_made_faster_all_the_same(tmp_path: Path) -> None:
    class Own(Net):
        """A class that nobody can import."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width

    found = run(Own(3).eval(), batches(False), out=tmp_path, **{**SETTINGS, "tune": 0})
    assert not (tmp_path / "network.safetensors").exists()
    assert any("network.safetensors is not written" in line for line in found.findings)
    assert found.files[0].exists()


def test_minutes_become_epochs_once(trained: nn.Module, tmp_path: Path) -> None:
    found = run(trained, batches(True), out=tmp_path, **{**SETTINGS, "tune": "0.05min"})
    told = found.metrics["tuning"]["planned 1.3×"]
    assert told["epochs"] >= 1
    assert (tmp_path / "steps" / "tuned 1.3, length.json").exists()
    assert RunSettings(target_speedup=2.0, tune=Tuning.of("3min")).tune.minutes == 3
