"""The page on training loops does what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ghostify
from ghostify import convert, create_model

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "training-loop.md").read_text()


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_loop_of_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    original = create_model("tiny:Tiny").eval()
    images, labels = torch.randn(64, 3, 12, 12), torch.zeros(64, dtype=torch.long)
    ghost = convert(original, ratio=2).model
    before = [p.clone() for p in ghost.parameters()]
    (block,) = [block for block in blocks(PAGE) if "ghostify.hints" in block and "for x, labels" in block]
    names: dict[str, Any] = {
        "original": original,
        "ghost": ghost,
        "batches": images.split(32),
        "device": "cpu",
        "loader": DataLoader(list(zip(images, labels, strict=True)), batch_size=16),
    }
    exec(block.replace("# loss = ", "loss = "), names)  # with the loss by labels, too
    assert any(not torch.equal(p, old) for p, old in zip(ghost.parameters(), before, strict=True))
    exec(block, names)
    x = images[:4]
    assert torch.equal(ghostify.load("ghost.safetensors")(x), ghost(x))


class Trainer:
    """The part of Hugging Face's that the page overrides: it asks for the loss of each batch."""

    def __init__(self, model: nn.Module, arguments: object, train_dataset: list[dict[str, Tensor]]) -> None:
        self.model, self.images = model, train_dataset

    def train(self) -> None:
        for inputs in self.images:
            self.compute_loss(self.model.train(), inputs, return_outputs=False, num_items_in_batch=None).backward()
        loss, outputs = self.compute_loss(self.model, self.images[0], return_outputs=True)
        assert loss is outputs["loss"]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def test_the_trainer_of_the_page_computes_the_loss() -> None:
    original = create_model("tiny:Tiny")
    ghost = convert(original, ratio=2).model
    (block,) = [block for block in blocks(PAGE) if "transformers.Trainer" in block]
    names = {
        "transformers": type("transformers", (), {"Trainer": Trainer, "TrainingArguments": lambda *a, **b: None}),
        "ghostify": ghostify,
        "original": original,
        "ghost": ghost,
        "batches": [torch.randn(32, 3, 12, 12)],
        "images": [{"pixel_values": torch.randn(8, 3, 12, 12), "labels": torch.zeros(8)}],
    }
    exec(block, names)
    assert all(p.grad is not None for p in ghost.parameters())
