"""The operators of an ONNX graph that ONNX Runtime runs fastest.

It computes convolutions on blocks of maps (NCHWc: 8 or 16, as many as fit a vector) and keeps what it can in that
layout; around the other operators it reorders the maps, which takes as long as a small convolution.
"""

from importlib import import_module
from typing import Any

import numpy as np

# Activations that it computes while it writes a convolution's maps.
ACTIVATIONS = {"Relu", "Clip", "HardSigmoid", "LeakyRelu", "Sigmoid", "Tanh"}


def suit_onnxruntime_(graph: Any) -> None:
    """Change a graph of ``onnx_ir`` in place; for inputs of the size that it is for, it computes the same."""
    fuse_sums_(graph)
    pool_means_(graph)
    spread_gates_(graph)


def fuse_sums_(graph: Any) -> None:
    """Put a depthwise 1×1 convolution of ones in front of sums of maps that other operators read, too.

    While ONNX Runtime writes the maps of a convolution that only a sum reads, it adds and activates as well. Without
    such a convolution, as where intrinsic maps of a ghost are added to a shortcut, it passes over the maps once for the
    sum and once more for the activation; behind a convolution of ones it passes once.
    """
    ir = import_module("onnx_ir")
    for node in list(graph):
        readers = node.outputs[0].uses()
        if node.op_type != "Add" or len(readers) != 1 or readers[0].node.op_type not in ACTIVATIONS:
            continue
        made = [value for value in node.inputs if value.producer() and value.producer().op_type in ("Conv", "Add")]
        shape = node.outputs[0].shape
        if not made or any(len(value.uses()) == 1 for value in made) or shape is None or len(shape) != 4:
            continue
        value = made[0]
        if value.shape is None or value.shape[1] != shape[1] or value.dtype != ir.DataType.FLOAT:
            continue
        ones = ir.Value(name=f"{value.name}_ones", const_value=ir.tensor(np.ones((shape[1], 1, 1, 1), np.float32)))
        graph.register_initializer(ones)
        attributes = [ir.AttrInt64("group", shape[1]), ir.AttrInt64s("kernel_shape", [1, 1])]
        copied = ir.Node("", "Conv", [value, ones], attributes)
        graph.insert_before(node, copied)
        node.replace_input_with(node.inputs.index(value), copied.outputs[0])


def pool_means_(graph: Any) -> None:
    """Turn means of whole maps into poolings, which work on blocks of maps."""
    ir = import_module("onnx_ir")
    for node in list(graph):
        if node.op_type != "ReduceMean":
            continue
        x, y = node.inputs[0], node.outputs[0]
        before, after = sizes(x), sizes(y)
        blocks = len(before) == len(after) == 4 and before[1] != 1 and x.dtype == ir.DataType.FLOAT
        if blocks and after == [*before[:2], 1, 1]:
            replace_(graph, node, ir.Node("", "GlobalAveragePool", [x]))


def spread_gates_(graph: Any) -> None:
    """Resize a gate to the maps that it multiplies, so that both can be in blocks."""
    ir = import_module("onnx_ir")
    for node in list(graph):
        wanted = node.op_type == "Mul" and node.outputs[0].dtype == ir.DataType.FLOAT
        if not wanted or any(len(sizes(value)) != 4 for value in node.inputs):
            continue
        for gate, maps in (node.inputs, node.inputs[::-1]):
            size = sizes(maps)
            if sizes(gate) != [*size[:2], 1, 1] or size[2:] == [1, 1] or not all(isinstance(n, int) for n in size[1:]):
                continue
            scales = ir.Value(
                name=f"{node.outputs[0].name}_scales", const_value=ir.tensor(np.array([1, 1, *size[2:]], np.float32))
            )
            graph.register_initializer(scales)
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            spread = ir.Node("", "Resize", [gate, None, scales], [ir.AttrString(*item) for item in how.items()])
            spread.outputs[0].shape, spread.outputs[0].dtype = maps.shape, maps.dtype
            graph.insert_before(node, spread)
            node.replace_input_with(node.inputs.index(gate), spread.outputs[0])
            break


def sizes(value: Any) -> list[Any]:
    """A value's shape, sizes that vary by name; empty where it is not known."""
    if value is None or value.shape is None:
        return []
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def replace_(graph: Any, old: Any, new: Any) -> None:
    """Put a node with one output in another's place."""
    convenience = import_module("onnx_ir.convenience")
    new.outputs[0].shape, new.outputs[0].dtype = old.outputs[0].shape, old.outputs[0].dtype
    graph.insert_before(old, new)
    convenience.replace_all_uses_with(old.outputs[0], new.outputs[0], replace_graph_outputs=True)
    graph.remove(old)
