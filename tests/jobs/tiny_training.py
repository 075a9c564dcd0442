"""A training that takes a second, of the tiny network on the colours."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify import create_model
from ghostify.data import load_data
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher, train
from ghostify.progress import Progress

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, precision="fp32")


def trained(
    colours: Path,
    recipe: Recipe = RECIPE,
    *,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> nn.Module:
    torch.manual_seed(recipe.seed)
    model = create_model("tiny:Tiny")
    data = load_data(f"npz:{colours}")
    train(model, data, recipe, teacher=teacher, options=RunOptions(**options), progress=progress)
    return model
