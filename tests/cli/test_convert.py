"""`ghostify convert` says what becomes of a network that knows nothing yet, and of one where nothing can change."""

import json
import re
from pathlib import Path

import pytest
from command_line import refused
from torch import Tensor, nn

from ghostify.cli import main


class OfGroups(nn.Module):
    """Convolutions none of which may change."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1, groups=3) for _ in range(4)))
        self.narrow = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.depthwise(x)).mean((2, 3))


class WithoutConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


def test_a_ghost_that_was_made_without_images_is_said_to_know_nothing(
    capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "tiny:Tiny", "--input-shape", "3,12,12", "--out", "ghost"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "so that it must be trained" in said
    [advised] = re.findall(r"`ghostify (train [^`]+)`", said)
    assert "--factory tiny:Tiny" in advised
    # The advice is true: as it is said, it runs.
    words = {"DATA": f"npz:{colours}", "DIR": "out"}
    train = [words.get(word, word) for word in advised.split()]
    assert main([*train, "--epochs", "1", "--batch-size", "16"]) == 0
    capsys.readouterr()
    images = ["--data", f"npz:{colours}", "--images", "40", "--effort", "fast"]
    assert main(["convert", "tiny:Tiny", *images, "--out", "kept"]) == 0
    assert "must be trained" not in capsys.readouterr().out


def test_a_known_networks_ghost_is_trained_without_a_factory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["convert", "resnet20", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "must be trained" in said
    assert "--factory" not in said


@pytest.mark.parametrize("with_images", [False, True])
def test_a_ghost_is_not_converted_again(
    with_images: bool, capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path
) -> None:
    assert main(["convert", "resnet20", "--out", str(tmp_path / "ghost")]) == 0
    capsys.readouterr()
    file = str(tmp_path / "ghost" / "ghost.safetensors")
    images = ["--data", f"npz:{colours}"] if with_images else []
    line = refused(capsys, "convert", file, *images, "--out", str(tmp_path / "again"))
    assert line.endswith("can change: already a part of a ghost (38)")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("model", "options", "reasons"),
    [
        ("ghost_resnet20", [], "already a part of a ghost"),
        ("FILE:OfGroups", [], "can change: depthwise (4), very narrow (1)"),
        ("FILE:WithoutConvolution", [], "has no convolution"),
        ("resnet20", ["--skip", "*"], "can change: skipped by name (19)"),
        ("resnet20", ["--ratio", "1"], "has no convolution to replace: a ghost would not be cheaper (19)"),
    ],
)
def test_where_nothing_can_change_the_commonest_reasons_are_said_in_one_line(
    model: str, options: list[str], reasons: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = model.replace("FILE", __name__)
    line = refused(capsys, "convert", name, *options, "--input-shape", "3,8,8", "--out", str(tmp_path / "out"))
    assert reasons in line
    assert not (tmp_path / "out").exists()


def test_all_layers_are_shown_where_they_are_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    convert = ["convert", "tiny:Tiny", "--input-shape", "3,12,12", "--skip", "conv2", "--out", str(tmp_path)]
    assert main(convert) == 0
    brief = capsys.readouterr().out
    assert main([*convert, "--layers"]) == 0
    whole = capsys.readouterr().out
    assert "Left as they are: skipped by name (1)." in brief
    assert "8/8/0" not in brief
    assert "8/8/0" in whole
    assert any(line.split() == ["conv2", "skipped", "by", "name"] for line in whole.splitlines())
    rows = json.loads((tmp_path / "layers.json").read_text())
    assert [row["name"] for row in rows] == ["conv1", "conv2"]
