"""Started by torchrun from `test_train` and `benchmarks/processes.py`: a few steps, and what each process counted."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ghostify import create_model
from ghostify.data import load_data
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import train
from ghostify.models.weights import load_weights_


class Double(nn.Module):
    """A network that computes in float64 whatever it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


def main(
    data_file: str, hold_out: str, batch_size: str, lr: str, epochs: str, out: str, weights: str = "", dtype: str = ""
) -> None:
    data = load_data(f"npz:{data_file}", hold_out=float(hold_out))
    torch.manual_seed(0)
    if weights:
        model = load_weights_(create_model("resnet20"), weights)
    else:
        model = create_model("tiny:Tiny")
        with torch.no_grad():  # statistics to hold
            model.bn1.running_mean.normal_()
            model.bn1.running_var.uniform_(0.5, 2)
    learner = Double(model) if dtype == "float64" else model
    recipe = Recipe(
        epochs=int(epochs),
        batch_size=int(batch_size),
        lr=float(lr),
        lr_batch_size=16,
        warmup_epochs=0,
        augment=False,
        freeze_norm=True,
        precision="fp32",
    )
    told: list[nn.Module] = []
    history = train(learner, data, recipe, after_epoch=lambda history, network: told.append(network))
    if told:  # the process that writes
        torch.save(model.state_dict(), Path(out) / "weights.pt")
        counted = {"images": [epoch.images for epoch in history], "val_top1": [epoch.val_top1 for epoch in history]}
        (Path(out) / "counted.json").write_text(json.dumps(counted))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
