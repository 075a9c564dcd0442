"""The page that shows what a run found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import nn

from ghostify.atomic import replacing
from ghostify.errors import InputError
from ghostify.inference.explain import ExplainedLayer, Explanation
from ghostify.jobs.images_of_run import Data
from ghostify.jobs.look import look
from ghostify.jobs.look_page import page_layer
from ghostify.jobs.page import render
from ghostify.measure.pictures import (
    PAIR_COLOURS,
    accuracy_against_time,
    layer_speeds,
    photograph,
    svg,
)


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    original: nn.Module,
    ghost: nn.Module,
    data: Data,
    explanation: Explanation | None,
) -> None:
    """Write one self-contained page: findings, accuracy against time, table, time by layer, maps of both networks.

    Args:
        path: HTML file, replaced whole.
        metrics: Those of a ``Run``.
        explanation: The time by layer, if an engine profiled it.
    """
    unit = f"{data.measure}, %" if data.labelled else "the original's answers, %"
    pixels, _ = data.first
    seen = photograph(pixels[0]) if pixels.dtype == torch.uint8 else None  # else they are normalised already
    page = render(
        "report.html",
        metrics=metrics,
        unit=unit,
        picture=Markup(svg(accuracy_against_time(metrics["networks"], unit))),
        speeds=speeds(explanation) if explanation is not None else None,
        layers=maps_beside(original, ghost, data.first_input),
        photograph=seen,
        seen_in=data.title_of_first,
        colours=PAIR_COLOURS,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


@torch.no_grad()
def maps_beside(original: nn.Module, ghost: nn.Module, x: Any) -> list[dict[str, Any]]:
    """The maps of both networks' layers for a page; none where they cannot be compared."""
    try:
        return [page_layer(layer) for layer in look(original, x, against=ghost)]
    except InputError:
        return []


def speeds(found: Explanation) -> dict[str, Any]:
    """Time against multiply-adds of the layers that have both, as a picture and as rows."""
    layers = [layer for layer in found.layers if layer.macs[0] and layer.ms[0]]
    macs = [layer.macs[1] / layer.macs[0] for layer in layers]
    time = [layer.ms[1] / layer.ms[0] for layer in layers]
    picture = layer_speeds(macs, time, [layer.ms[0] / found.ms[0] for layer in layers])
    rest: list[ExplainedLayer] = [layer for layer in found.layers if layer not in layers]
    return {"picture": Markup(svg(picture)), "layers": layers, "rest": rest, "found": found}
