"""A training that takes a second, of the tiny network on the colours."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify import create_model
from ghostify.data import load_data
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import train

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, precision="fp32")


def trained(colours: Path, recipe: Recipe = RECIPE, **options: Any) -> nn.Module:
    torch.manual_seed(recipe.seed)
    model = create_model("tiny:Tiny")
    train(model, load_data(f"npz:{colours}"), recipe, **options)
    return model
