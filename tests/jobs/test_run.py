"""The whole story, small."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch

from ghostify import InputError, count, create_model, load
from ghostify.data import load_data
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.run import Proof, make_narrower, run
from ghostify.jobs.run_settings import GhostSettings, RunSettings
from ghostify.progress import Progress


def small_run(
    colours: Path, out: Path, resume: bool = False, images: int = 40, progress: Progress | None = None
) -> Proof:
    return run(
        lambda: create_model("tiny:Tiny"),
        load_data(f"npz:{colours}", hold_out=0.2),
        RunSettings(
            Recipe(epochs=2, batch_size=16, lr=0.05),
            GhostSettings(image_count=images),
            blocks=6,  # enough for an interval; no figure is taken from here
            resume=resume,
        ),
        out,
        about={"model": "<script>alert(1)</script>", "data": "colours"},
        progress=progress,
    )


@pytest.mark.usefixtures("short_blocks")
def test_it_writes_networks_figures_and_a_page_that_needs_no_other_file(colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    proof = small_run(colours, out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["networks"]) == ["original", "ghost", "narrow"]
    for name, row in metrics["networks"].items():
        network = load(out / f"{name}.safetensors", factory="tiny:Tiny")
        assert count(network, (3, 12, 12)).macs == row["macs"]
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]
        assert len(row["history"]) == (1 if name == "ghost" else 2)
    ghost, narrow = metrics["networks"]["ghost"], metrics["networks"]["narrow"]
    assert narrow["macs"] <= ghost["macs"] < metrics["networks"]["original"]["macs"]
    assert ghost["measured_speedup_low"] <= ghost["measured_speedup"] <= ghost["measured_speedup_high"]
    began, *against = proof.findings()
    assert began.startswith("Made of the trained original with 40 images and no labels, the ghost had ")
    assert metrics["calibration"]["val_top1"] > 0.9  # before its epoch with labels; chance is a third
    assert [finding.split(":")[0] for finding in against[:2]] == [
        "Against the original",
        "Against the narrower network",
    ]
    assert re.search(r": \d+ % of its MACs, .* points of top-1 .*; the ghost is .* the original", against[0])
    assert against[2:] == proof.notes  # one where the machine was not quiet

    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/webp;base64,") == 4  # one layer's maps, the ghost's, the difference, and the image
    assert page.count("<svg ") == 4  # loss, accuracy, time by layer, what few maps explain
    assert {layer["name"] for layer in metrics["layers"]} >= {"conv1", "conv2"}
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)

    with pytest.raises(InputError, match="holds a finished run"):
        small_run(colours, out)
    steps: list[str] = []
    again = small_run(colours, out, resume=True, progress=lambda task, *_: steps.append(task))
    assert set(steps) >= {"make the ghost", "measure"}
    assert not any(step.startswith("train") for step in steps), "what has learnt does not learn again"
    assert again.contestants[1].score == proof.contestants[1].score


@pytest.mark.parametrize("images", [0, 31])
def test_too_few_images_for_the_ghost_are_refused_before_any_training(
    colours: Path, tmp_path: Path, images: int
) -> None:
    with pytest.raises(InputError, match=f"{images} images to make the ghost with: expected at least 32"):
        small_run(colours, tmp_path / "out", images=images)
    assert not (tmp_path / "out").exists()


def test_the_narrower_network_starts_from_the_same_weights() -> None:
    original = create_model("tiny:Tiny")
    narrow, notes = make_narrower(copy.deepcopy(original), (3, 8, 8), count(original, (3, 8, 8)).macs // 2)
    assert notes == []
    assert narrow is not None
    kept = [any(torch.equal(row, other) for other in original.conv1.weight) for row in narrow.conv1.weight]
    assert all(kept)


def test_a_network_that_cannot_be_narrowed_has_no_rival() -> None:
    class Fixed(torch.nn.Module):
        """One convolution, whose maps are the output."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    narrow, notes = make_narrower(Fixed(), (3, 8, 8), 1000)
    assert narrow is None
    assert notes[0].startswith("No narrower rival: ")
