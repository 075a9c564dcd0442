"""One graph for batches of any size, from the graphs for two sizes.

``torch.export`` fixes the size of a batch where a network's code takes it as a number, as by ``len(x)``.
"""

import operator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from ghostify.inference.nodes import UnclearError

# Primes, so that hardly another number of a graph is a multiple of them.
BATCHES = (11, 13)


def for_any_batch(one: fx.GraphModule, other: fx.GraphModule) -> fx.GraphModule:
    """The first of two graphs of a network, for batches of ``BATCHES``, as one for any batch.

    A number that is a multiple of the batch's size in both is computed from the batch that comes.

    Raises:
        UnclearError: If the graphs differ otherwise.
    """
    graph = one.graph
    if len(graph.nodes) != len(other.graph.nodes):
        raise UnclearError("it has other operators for other batches")
    pairs = list(zip(graph.nodes, other.graph.nodes, strict=True))
    twins = {theirs: node for node, theirs in pairs}
    (images,) = [node for node in graph.nodes if node.op == "placeholder"]
    sizes: dict[int, fx.Node] = {}  # of a multiple of the batch's size, its node

    def size(times: int) -> fx.Node:
        if 1 not in sizes:
            with graph.inserting_after(images):
                sizes[1] = graph.call_function(torch.ops.aten.sym_size.int, (images, 0))
        if times not in sizes:
            with graph.inserting_after(sizes[1]):
                sizes[times] = graph.call_function(operator.mul, (sizes[1], times))
        return sizes[times]

    def joined(argument: Any, theirs: Any) -> Any:
        if isinstance(argument, fx.Node) and twins.get(theirs) is argument:
            return argument
        if type(argument) is type(theirs) and argument == theirs:
            return argument
        if type(argument) is int and type(theirs) is int and argument % BATCHES[0] == 0:
            times = argument // BATCHES[0]
            if theirs == times * BATCHES[1]:
                return size(times)
        raise UnclearError(f"{argument} is {theirs} for another batch")

    for node, theirs in pairs:
        if (node.op, str(node.target)) != (theirs.op, str(theirs.target)):
            raise UnclearError(f"{node.target} is {theirs.target} for another batch")
        if node.op == "get_attr" and not equal(*(attrgetter(str(node.target))(module) for module in (one, other))):
            raise UnclearError(f"{node.target} is another for another batch")
        try:
            node.args = tree_map(joined, node.args, theirs.args)
            node.kwargs = tree_map(joined, node.kwargs, theirs.kwargs)
        except ValueError as error:  # PyTorch's, of lists that are longer in one
            raise UnclearError(f"{node.target} takes other arguments for another batch") from error
    graph.lint()
    return fx.GraphModule(one, graph)  # without the assertions on its input that the other has as hooks


def equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and torch.equal(one, other)
