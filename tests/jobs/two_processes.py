"""Started by torchrun from `test_train`: a few steps, and what each process counted."""

import json
import sys
from pathlib import Path

import torch
from tiny import Tiny
from torch import nn

from ghostify.data import load_data
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import train


def main(data_file: str, batch_size: str, epochs: str, out: str) -> None:
    data = load_data(f"npz:{data_file}", hold_out=0.25)
    torch.manual_seed(0)
    model = Tiny()
    with torch.no_grad():  # statistics to hold
        model.bn1.running_mean.normal_()
        model.bn1.running_var.uniform_(0.5, 2)
    recipe = Recipe(
        epochs=int(epochs),
        batch_size=int(batch_size),
        lr=0.02,
        lr_batch_size=16,
        warmup_epochs=0,
        augment=False,
        freeze_norm=True,
        precision="fp32",
    )
    told: list[nn.Module] = []
    history = train(model, data, recipe, after_epoch=lambda history, network: told.append(network))
    if told:  # the process that writes
        torch.save(model.state_dict(), Path(out) / "weights.pt")
        counted = {"images": [epoch.images for epoch in history], "val_top1": [epoch.val_top1 for epoch in history]}
        (Path(out) / "counted.json").write_text(json.dumps(counted))


if __name__ == "__main__":
    main(*sys.argv[1:])
