"""What the benchmarks' rivals need."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning import importance

from ghostify.changes.change import Change
from ghostify.fitting.trial import Trial
from ghostify.jobs.rivals import estimate_norms_
from ghostify.transform.narrow import narrow

# Torch-Pruning's criteria that need no training of their own.
CRITERIA: Mapping[str, Callable[[], importance.Importance]] = {
    "magnitude, L1": lambda: importance.MagnitudeImportance(p=1),
    "magnitude, L2": lambda: importance.MagnitudeImportance(p=2),
    "BatchNorm scale": importance.BNScaleImportance,
    "LAMP": importance.LAMPImportance,
    "Taylor": importance.TaylorImportance,
}


class NotOffered(Change):
    """The base of a rival's kind: its layers are known to network files, and no plan offers it."""

    def output_error(self, trial: Trial, layer: Any) -> float:
        return float("inf")


def pruned(
    original: nn.Module, images: Sequence[Tensor], shape: Sequence[int], macs: int, criterion: str = "magnitude, L2"
) -> nn.Module:
    """Torch-Pruning at so many multiply-adds, BatchNorm statistics estimated anew."""

    def with_gradients(model: nn.Module) -> None:
        """Of the loss on the network's own answers: there are no labels."""
        model.zero_grad()
        for batch in images:
            logits = model(batch)
            nn.functional.cross_entropy(logits, logits.argmax(1)).backward()

    prepare = with_gradients if criterion == "Taylor" else None
    model = narrow(original, shape, macs, importance=CRITERIA[criterion](), prepare=prepare)
    model.zero_grad()
    estimate_norms_(model, images)
    return model


@torch.no_grad()
def unfold_norms_(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Give a network whose BatchNorms were folded away statistics to estimate; what it computes stays."""
    norms = norms_of(model.eval())
    before = [(norm.weight / (norm.running_var + norm.eps).sqrt(), norm.bias, norm.running_mean) for norm in norms]
    before = [tuple(tensor.clone() for tensor in tensors) for tensors in before]
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}
    hooks = [norm.register_forward_pre_hook(lambda m, args: seen[m].append(moments(args[0]))) for norm in norms]
    for batch in images:
        model(batch)
    for hook in hooks:
        hook.remove()
    for norm, (gain, bias, old_mean) in zip(norms, before, strict=True):
        mean, square = torch.stack(seen[norm]).mean(0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((square - mean.square()).clamp_min(1e-8))
        norm.weight.copy_(gain * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(bias + gain * (mean - old_mean))


def moments(maps: Tensor) -> Tensor:
    """Mean and mean square of each map: ``[2, channels]``."""
    return torch.stack([maps.mean((0, 2, 3)), maps.square().mean((0, 2, 3))])


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
