"""A network's file is opened once per verb, however much is asked of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from counted_reads import CountedReads

from ghostify import create_model, save
from ghostify.cli import main
from ghostify.cli.opening import NamedNetwork


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A network whose file says how its images are normalised, and which classes it knows."""
    path = tmp_path / "network.safetensors"
    grey = [0.5, 0.5, 0.5]
    note = {"mean": grey, "std": grey, "image_size": 12, "classes": ["0", "1", "2"]}
    save(create_model("tiny:Tiny"), path, extra=note)
    return str(path)


@pytest.mark.parametrize(
    ("verb", "with_data"),
    [
        (["count"], False),
        (["evaluate"], True),
        (["convert", "--out", "OUT", "--effort", "fast", "--finetune", "1", "--batch-size", "16"], True),
        (["plan", "--out", "OUT", "--target-macs", "0.8", "--images", "40"], True),
        (["train", "--out", "OUT", "--epochs", "1", "--batch-size", "16"], True),
        (["export", "--out", "OUT"], True),
        (["look", "--out", "OUT"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_verb_opens_its_networks_file_once(
    verb: list[str],
    with_data: bool,
    file: str,
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reads = CountedReads(monkeypatch)
    name, *rest = [str(tmp_path / "out") if word == "OUT" else word for word in verb]
    data = ["--data", f"npz:{colours}", "--device", "cpu"] if with_data else []
    status = main([name, file, "--factory", "tiny:Tiny", *data, *rest, "--json"])
    assert status == 0, capsys.readouterr().err
    assert reads.opened == [file]
    assert len(reads.tensors) == len(set(reads.tensors))


def test_a_teachers_file_is_opened_once(
    file: str, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = CountedReads(monkeypatch)
    train = ["train", "tiny:Tiny", "--data", f"npz:{colours}", "--epochs", "1", "--batch-size", "16"]
    train += ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*train, "--teacher", file, "--factory", "tiny:Tiny"]) == 0, capsys.readouterr().err
    assert reads.opened == [file]


def test_both_files_of_a_comparison_are_opened_once(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tmp_path / "other.safetensors")
    save(create_model("tiny:Tiny", width=8), other)
    reads = CountedReads(monkeypatch)
    arguments = ["compare", file, other, "--factory", "tiny:Tiny", "--blocks", "6", "--device", "cpu"]
    assert main(arguments) == 0, capsys.readouterr().err
    assert reads.opened == [file, other]


def test_what_a_file_says_of_images_is_read_without_a_tensor(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = CountedReads(monkeypatch)
    network = NamedNetwork(file, factory="tiny:Tiny")
    assert network.channels == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    network.refuse_other_classes("digits", ("0", "1", "2"))
    assert (reads.opened, reads.tensors) == ([file], [])
