"""Operators that PyTorch's ONNX exporter does not know, in those that it knows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

aten = torch.ops.aten


def adaptive_max_pool2d(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest value of each of ``output_size`` parts of the maps, as ``nn.AdaptiveMaxPool2d`` cuts them.

    Their places, which hardly a network asks for, are all 0: the check of the file would tell.
    """
    height, width = x.shape[-2:]
    rows = []
    for i in range(output_size[0]):
        part = x[..., i * height // output_size[0] : -(-(i + 1) * height // output_size[0]), :]
        cells = [
            part[..., j * width // output_size[1] : -(-(j + 1) * width // output_size[1])].amax((-2, -1), keepdim=True)
            for j in range(output_size[1])
        ]
        rows.append(torch.cat(cells, -1))
    found = torch.cat(rows, -2)
    return found, torch.zeros_like(found, dtype=torch.int64)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention`` by products and softmax: the exporter has it for four dimensions only."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        given = attn_mask if attn_mask.dtype != torch.bool else torch.where(attn_mask, 0.0, -torch.inf).to(scores)
        scores = scores + given
    return scores.softmax(-1) @ value


def is_unknown(node: fx.Node) -> bool:
    """True for an operator of ``TABLE`` that the exporter does not know as it stands."""
    if node.target is aten.scaled_dot_product_attention.default:
        return any(given.meta["val"].ndim != 4 for given in node.all_input_nodes[:3])
    return node.target in TABLE


TABLE: dict[Any, Callable[..., Any]] = {
    aten.adaptive_max_pool2d.default: adaptive_max_pool2d,
    aten.scaled_dot_product_attention.default: attention,
}


def with_known_operators(program: ExportedProgram) -> ExportedProgram:
    """A program of fixed height and width, without operators that the exporter does not know."""
    table = {node.target: TABLE[node.target] for node in program.graph.nodes if is_unknown(node)}
    return program.run_decompositions(table) if table else program
