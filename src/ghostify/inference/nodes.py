"""Questions about the nodes of an exported graph and their operators."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# Operators that act on each map by itself, so that they can act on some of the maps.
ELEMENTWISE = {
    *(aten.relu, aten.relu6, aten.hardtanh, aten.hardswish, aten.hardsigmoid, aten.sigmoid, aten.silu, aten.gelu),
    *(aten.elu, aten.selu, aten.celu, aten.leaky_relu, aten.mish, aten.softplus, aten.tanh, aten.clamp, aten.clamp_min),
    *(aten.contiguous, aten.clone),  # which a view behind them may need
    *(aten.to, aten._to_copy),
}
SPATIAL = {
    *(aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d),
    *(aten.upsample_nearest2d, aten.upsample_bilinear2d),
}
ARITHMETIC = {aten.add, aten.sub, aten.mul, aten.div}
DROPOUT = {aten.dropout, aten.feature_dropout, aten.alpha_dropout}
NOTHING = {*DROPOUT, aten.detach, aten.alias}
END = 2**63 - 1  # of a slice without one
WHOLE = (None, 0, 0, END, 1)  # a slice's arguments where they are not given


class UnclearError(Exception):
    """The graph does something that cannot be followed."""


def first(node: fx.Node) -> fx.Node:
    """The node that is its first argument."""
    argument = node.args[0]
    assert isinstance(argument, fx.Node)
    return argument


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a node's operator."""
    return node.args


def packet(node: fx.Node) -> Any:
    """The operator without its overload, and its form that changes nothing in place."""
    target = functional(node.target)
    return target.overloadpacket if isinstance(target, torch._ops.OpOverload) else target


def functional(target: Any) -> Any:
    """The same operator, leaving its inputs as they are."""
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return target
    name = target.overloadpacket.__name__
    if not name.endswith("_") or not hasattr(aten, name[:-1]):
        raise UnclearError(f"{target} changes what it gets")
    return getattr(getattr(aten, name[:-1]), target._overloadname)


def does_nothing(node: fx.Node) -> bool:
    """True if an operator returns its input unchanged; not for a dropout that was asked to drop in eval mode, too."""
    op = packet(node)
    if op is aten.slice:  # all of it
        given: tuple[Any, ...] = (*node.args, *WHOLE[len(node.args) :])
        return given[2] in (0, None) and given[3] in (END, None) and given[4] == 1
    return op in NOTHING and not (op in DROPOUT and bool(node.args[2]))


def is_in_place(node: fx.Node) -> bool:
    """True if an operator changes its first argument."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and not does_nothing(node)


def tensor_of(node: fx.Node) -> fx.Node:
    """The node that made the very tensor that a node returns: operators in place, and some others, pass theirs on."""
    while node.op == "call_function" and (is_in_place(node) or does_nothing(node)):
        node = first(node)
    return node


def memory_of(node: fx.Node) -> fx.Node:
    """The node in whose memory a node's result may lie, found by following views to what they look at."""
    while (seen := looked_at(node)) is not None:
        node = seen
    return node


def is_functional(graph: fx.Graph) -> bool:
    """True if changes in place can be read as if each made a new tensor.

    So it is where nothing else looks at the memory that is changed, and it is no input's or buffer's.
    """
    tensors: dict[fx.Node, set[fx.Node]] = {}
    try:
        for node in graph.nodes:
            tensors.setdefault(memory_of(node), set()).add(tensor_of(node))
    except UnclearError:  # an operator that has no form that makes a new tensor
        return False
    changed = [memory_of(node) for node in graph.nodes if is_in_place(node)]
    return all(memory.op == "call_function" and len(tensors[memory]) == 1 for memory in changed)


def looked_at(node: fx.Node) -> fx.Node | None:
    """The input whose memory an operator may return, whole or as a view, by its schema; None if there is none."""
    if node.op != "call_function":
        return None
    if node.target is operator.getitem or does_nothing(node):
        return first(node)
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    pairs = zip(node.target._schema.arguments, node.args, strict=False)
    return next((a for argument, a in pairs if argument.alias_info is not None and isinstance(a, fx.Node)), None)


def takes_others(node: fx.Node) -> bool:
    """True if an operator takes tensors or sizes beyond its first argument."""
    return any(isinstance(argument, fx.Node) for argument in (*node.args[1:], *node.kwargs.values()))


def ghost_layer(node: fx.Node) -> str | None:
    """The name of the ghost layer whose code made a node; None for other nodes."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return None
    name, kind = stack[-1]
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    ours = kind.startswith("ghostify.layers.") and kind.rpartition(".")[2] in {"GhostConv2d", "GhostModule"}
    return str(name) if ours else None


def owner(node: fx.Node) -> str:
    """The name of the module whose code made a node; "" for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def reader(node: fx.Node) -> str:
    """A node's name in a report: its module's, else its own."""
    return owner(node) or node.name


def rank(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else None


def is_pixel(node: fx.Node) -> bool:
    """True if a node's maps have one pixel each, so that copying them costs nothing."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and all(isinstance(size, int) and size == 1 for size in value.shape[2:])


def is_spatial(node: fx.Node) -> bool:
    """True if a mean or a slice is over the pixels of each map."""
    dims = node.args[1] if len(node.args) > 1 else None
    dims = dims if isinstance(dims, list | tuple) else [dims]
    return rank(first(node)) == 4 and all(d in (2, 3, -1, -2) for d in dims)


def same_shape(argument: fx.Node, node: fx.Node) -> bool:
    """True if a result has the shape of an input."""
    return [str(n) for n in argument.meta["val"].shape] == [str(n) for n in node.meta["val"].shape]
