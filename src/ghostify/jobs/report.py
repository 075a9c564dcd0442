"""The page that shows what a run found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, nn

from ghostify.atomic import replacing
from ghostify.data import ImageData
from ghostify.data.augment import normalise
from ghostify.layers import GhostConv2d
from ghostify.measure.pictures import feature_maps, png_uri, training_curves
from ghostify.modes import evaluating

MAPS_SHOWN = 32


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    findings: Sequence[str],
    original: nn.Module,
    ghost: nn.Module,
    data: ImageData,
) -> None:
    """Write one self-contained page: findings, table, training curves, some feature maps of both networks.

    Args:
        path: HTML file, replaced whole.
        metrics: ``Proof.metrics()``.
        findings: Sentences for its top.
    """
    networks = metrics["networks"]
    environment = Environment(
        loader=PackageLoader("ghostify.jobs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html").render(
        metrics=metrics,
        findings=findings,
        curves=png_uri(training_curves({name: row["history"] for name, row in networks.items()})),
        maps=map_pictures(original, ghost, data),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def map_pictures(original: nn.Module, ghost: nn.Module, data: ImageData) -> dict[str, Any] | None:
    """The same layer's maps in both networks on the first test image; None where no layer is a ghost."""
    layers = [(name, module) for name, module in ghost.named_modules() if isinstance(module, GhostConv2d)]
    if not layers:
        return None
    name, layer = next((row for row in layers if row[1].out_channels >= MAPS_SHOWN), layers[0])
    pixels, labels = data.test[0]
    device = next(ghost.parameters()).device
    x = normalise(pixels.to(device), data.mean, data.std)
    originals, ghosts = (maps_of(network, name, x) for network in (original, ghost))
    # Half intrinsic maps, half ghosts, so that both are seen.
    place = torch.arange(layer.out_channels) if layer.order is None else layer.order.cpu()
    by_convolution = place < layer.primary.out_channels
    first = by_convolution.nonzero().flatten()[: MAPS_SHOWN // 2]
    shown = torch.cat([first, (~by_convolution).nonzero().flatten()])[:MAPS_SHOWN]
    # Where the order is folded away, nothing says which of the original's maps these stand for.
    beside = torch.arange(len(shown)) if layer.order is None else shown
    return {
        "layer": name,
        "label": data.classes[int(labels[0])],
        "original": png_uri(feature_maps(originals[beside])),
        "ghost": png_uri(feature_maps(ghosts[shown], len(first))),
    }


def maps_of(network: nn.Module, name: str, x: Tensor) -> Tensor:
    """The output ``[maps, height, width]`` of a layer for the first image of ``x``."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        caught.append(output[0].cpu())

    hook = network.get_submodule(name).register_forward_hook(catch)
    try:
        with evaluating(network), torch.inference_mode():
            network(x)
    finally:
        hook.remove()
    return caught[0]
