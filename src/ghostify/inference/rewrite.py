"""Rewrite an exported graph: BatchNorm folded, no dropout, intrinsic maps and ghosts in tensors of their own."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ghostify.inference.maps import Constant, Conv, Filters, Geometry, Maps, Part
from ghostify.inference.nodes import (
    ARITHMETIC,
    ELEMENTWISE,
    SPATIAL,
    UnclearError,
    arguments,
    aten,
    does_nothing,
    first,
    functional,
    ghost_layer,
    is_in_place,
    is_pixel,
    is_spatial,
    owner,
    packet,
    rank,
    reader,
    same_shape,
    takes_others,
    tensor_of,
)

AFFINE = ".affine"  # ends the name of a convolution that stands for a BatchNorm


class Rewriter:
    """One pass over a graph of ATen operators.

    Args:
        old: The graph from ``torch.export``, in eval mode, whose changes in place touch nothing else.
        splits: True for the names of ghost layers whose maps stay in two tensors.
        cuts: Bounds between the tensors in which convolutions make their maps, by the name of the convolution's node.
    Attributes:
        found: Further cuts, by which another pass need not slice maps as this one had to.
        joins: Reasons why ghost layers' maps had to be joined, by name.
        split: Names of ghost layers whose maps stayed apart.
    """

    def __init__(
        self, old: fx.GraphModule, splits: Callable[[str], bool], cuts: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.old, self.splits, self.cuts = old, splits, dict(cuts or {})
        self.found: dict[str, list[int]] = {}
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.convs: list[Conv] = []
        self.linears: dict[str, nn.Linear] = {}
        self.constants: dict[str, str] = {}  # name in the old graph, or made up: name of the buffer
        self.values: dict[fx.Node, Any] = {}
        self.joins: dict[str, str] = {}
        self.split: set[str] = set()

    def run(self) -> fx.GraphModule:
        for node in self.old.graph.nodes:
            self.values[node] = self.rewritten(node)
            if is_in_place(node):
                self.follow_change(node)
        built: dict[str, nn.Module] = {conv.name: conv.filters.build() for conv in self.distinct_convs()}
        built |= self.linears
        for name in sorted(built, key=lambda name: name.count(".")):  # a layer may have others inside: it comes first
            add_module(self.root, name, built[name])
        network = fx.GraphModule(self.root, self.graph)
        network.graph.eliminate_dead_code()
        act_in_place(network)
        network.delete_all_unused_submodules()
        network.recompile()
        return network

    def distinct_convs(self) -> list[Conv]:
        """The convolutions; those that compute the same, as a detector's head at its levels, share one layer."""
        distinct: list[Conv] = []
        for conv in self.convs:
            same = next((other for other in distinct if other.filters.same_as(conv.filters)), None)
            if same is None:
                distinct.append(conv)
            else:
                conv.node.target = same.name
        return distinct

    def follow_change(self, node: fx.Node) -> None:
        """Have all readers behind a change in place read its result (see ``nodes.is_functional``)."""
        for other in [n for n in self.values if tensor_of(n) is tensor_of(node)]:
            self.values[other] = self.values[node]

    # One method per kind of node.

    def rewritten(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.whole(self.graph.placeholder(node.name), node)
        if node.op == "get_attr":
            assert isinstance(node.target, str)
            value = operator.attrgetter(node.target)(self.old)
            if not isinstance(value, Tensor):
                raise UnclearError(f"a part of it is chosen by a value, or is a graph of its own: {node.target}")
            return Constant(node.target, value.detach())
        if node.op == "output":
            found: Any = fx.map_arg(node.args[0], lambda n: self.joined(n, "output"))
            codegen: Any = self.old.graph._codegen
            if codegen.pytree_info.out_spec.is_leaf():
                return self.graph.output(found[0])
            self.graph.set_codegen(codegen)
            return self.graph.output(found)
        if node.op != "call_function":
            raise UnclearError(f"{node.op} {node.target}")
        return self.called(node)

    def called(self, node: fx.Node) -> Any:
        x = self.values.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        op = packet(node)
        if op is aten._assert_tensor_metadata:  # so it was in the example, and is therefore
            return None
        if (constant := self.computed(node)) is not None:
            return constant
        if op is operator.getitem and isinstance(x, tuple):
            return x[arguments(node)[1]]
        if op is aten.sym_size and isinstance(x, Maps):
            if node.args[1] == 1 and len(x.parts) > 1:
                return x.bounds[-1]
            return self.call(node, x.parts[0].node)
        if does_nothing(node) and not isinstance(x, Constant):
            return without_convs(x) if isinstance(x, Maps) and len(first(node).users) > 1 else x
        if op is aten.cat:
            return self.cat(node)
        if op is aten.linear:
            return self.linear(node)
        if not isinstance(x, Maps) or node.kwargs.get("out") is not None:
            return self.generic(node)
        if op is aten.conv2d:
            return self.conv2d(node, x)
        if op is aten.batch_norm:
            *tensors, training, _, eps, _ = arguments(node)
            return self.generic(node) if training else self.batch_norm(node, x, tensors[1:], eps)
        if op is aten._native_batch_norm_legit_no_training:  # as functional graphs have it
            *tensors, _, eps = arguments(node)
            normed = self.batch_norm(node, x, tensors[1:], eps)
            return (normed,) if isinstance(normed, Maps) else normed
        if op in ARITHMETIC:
            return self.arithmetic(node, x)
        if op in ELEMENTWISE or op in SPATIAL or (op in (aten.mean, aten.slice) and is_spatial(node)):
            if op is aten.relu and all(packet(part.node) is aten.relu for part in x.parts):
                return x
            return self.generic(node) if takes_others(node) and op in ELEMENTWISE else self.each(node, x)
        if op in (aten.slice, aten.narrow):
            return self.first_maps(node, x)
        return self.generic(node)

    def computed(self, node: fx.Node) -> Constant | None:
        """The result of an operator on constants alone, as of a mask and the weights that it covers."""
        value, inputs = node.meta.get("val"), [self.values[n] for n in node.all_input_nodes]
        if not inputs or not all(isinstance(n, Constant) for n in inputs) or not isinstance(value, Tensor):
            return None
        target: Any = functional(node.target)
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            return None
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: self.values[n].tensor)
        return Constant(f"{inputs[0].name}.{node.name}", target(*args, **kwargs))

    def cat(self, node: fx.Node) -> Any:
        tensors, dim = node.args[0], node.args[1] if len(node.args) > 1 else 0
        assert isinstance(tensors, list | tuple)
        name = ghost_layer(node)
        values = [self.values[t] for t in tensors if isinstance(t, fx.Node)]
        if name is not None and rank(node) == 5:
            self.joins.setdefault(name, "it has groups")
        if name is None or dim not in (1, -3) or not all(isinstance(v, Maps) for v in values):
            return self.generic(node)
        # Also maps that are joined are better joined behind BatchNorm, which is then folded into their convolutions.
        split = self.splits(name)
        if not split and [packet(user) for user in node.users] != [aten.batch_norm]:
            return self.generic(node)
        if split:
            self.split.add(name)
        parts: list[Part] = []
        for tensor, value in zip(tensors, values, strict=True):
            alone = len(tensor.users) == 1
            parts += value.parts if alone else without_convs(value).parts
        return Maps(tuple(parts), name, split)

    def conv2d(self, node: fx.Node, x: Maps) -> Any:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        named: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
        weight, bias = self.values[named["weight"]], named.get("bias")
        bias = None if bias is None else self.values[bias]
        if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
            return self.generic(node)
        filters = Filters(
            weight.tensor.double(),
            None if bias is None else bias.tensor.double(),
            int(named.get("groups", 1)),
            Geometry(**{key: named[key] for key in ("stride", "padding", "dilation") if key in named}),
            weight.tensor.dtype,
        )
        stored = named["weight"].op == "get_attr"
        name = (weight.name.rpartition(".")[0] if stored else owner(node)) or "conv"
        if filters.groups == 1:
            return self.dense(node, x, name, filters)
        if filters.groups == x.bounds[-1] and len(x.parts) > 1:
            return self.depthwise(node, x, name, filters)
        source = self.join(x, first(node), reader(node))
        return Maps((self.sum_of((self.emit(name, filters, source, node),)),))

    def dense(self, node: fx.Node, x: Maps, name: str, filters: Filters) -> Maps:
        """A convolution of each part of the input and their sum, in as many tensors as ``cuts`` says."""
        apart = len(x.parts) > 1 and not is_pixel(first(node))
        sources = x.parts if apart else (Part(self.join(x, first(node), reader(node)), x.bounds[-1]),)
        bounds = self.cuts.get(node.name, (0, len(filters.weight)))
        parts = []
        for piece in filters.split_outputs([end - start for start, end in pairwise(bounds)]):
            addends = zip(piece.split_inputs([part.maps for part in sources]), sources, strict=True)
            parts.append(self.sum_of([self.emit(name, own, part.node, node) for own, part in addends]))
        return Maps(tuple(parts), x.ghost if apart else None)

    def depthwise(self, node: fx.Node, x: Maps, name: str, filters: Filters) -> Maps:
        """A depthwise convolution of each part of the input."""
        per_map = len(filters.weight) // filters.groups
        pieces = filters.split_outputs([part.maps * per_map for part in x.parts])
        convs = [
            self.emit(name, replace(piece, groups=part.maps), part.node, node)
            for piece, part in zip(pieces, x.parts, strict=True)
        ]
        return Maps(tuple(Part(conv.node, len(conv.filters.weight), (conv,)) for conv in convs), x.ghost)

    def linear(self, node: fx.Node) -> Any:
        weight, bias = (self.values[n] if isinstance(n, fx.Node) else n for n in (*arguments(node), None)[1:3])
        if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
            return self.generic(node)
        outputs, inputs = weight.tensor.shape
        linear = nn.Linear(inputs, outputs, bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.tensor, requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.tensor, requires_grad=False)
        stored = arguments(node)[1].op == "get_attr"
        name = self.free((weight.name.rpartition(".")[0] if stored else owner(node)) or "linear")
        self.linears[name] = linear
        return self.whole(self.graph.call_module(name, (self.joined(first(node), reader(node)),)), node)

    def batch_norm(self, node: fx.Node, x: Maps, affine: Sequence[Any], eps: float) -> Any:
        """Weight, bias, mean and variance, each a node or None, folded into the convolutions that made the maps."""
        constants = [self.values.get(n) for n in affine]
        if not all(c is None or isinstance(c, Constant) for c in constants) or None in constants[2:]:
            return self.generic(node)
        weight, bias, mean, variance = (None if c is None else c.tensor.double() for c in constants)
        assert mean is not None
        assert variance is not None
        dtype = first(node).meta["val"].dtype  # the norm's own numbers may have more digits
        # Folded into a convolution that leaves all maps as they are.
        identity = mean.new_ones(len(mean), 1, 1, 1)
        scale, shift = fuse_conv_bn_weights(identity, None, mean, variance, eps, weight, bias)
        alone = len(first(node).users) == 1
        parts = []
        for part, s, b in zip(x.parts, self.cut(scale.flatten(), x), self.cut(shift, x), strict=True):
            if part.convs and alone:
                for conv in part.convs:
                    conv.filters = conv.filters.scaled(s)
                part.convs[0].filters = part.convs[0].filters.shifted(b)
                parts.append(part)
            else:
                parts.append(self.affine(part, s, b, dtype, node))
        if not x.split:
            return Maps((Part(self.join(Maps(tuple(parts)), node, ""), x.bounds[-1]),))
        return replace(x, parts=tuple(parts))

    def arithmetic(self, node: fx.Node, x: Maps) -> Any:
        if len(node.args) < 2 or node.kwargs:
            return self.generic(node)
        other = self.values.get(node.args[1]) if isinstance(node.args[1], fx.Node) else node.args[1]
        if isinstance(other, int | float):
            return self.each(node, x)
        if not isinstance(other, Maps) or rank(node) != 4 or x.bounds[-1] != other.bounds[-1]:
            return self.generic(node)
        if {rank(n) for n in arguments(node)[:2]} != {4}:
            return self.generic(node)
        a, b = self.aligned(node, x, other)
        n, m = arguments(node)[:2]
        parts = []
        for p, q in zip(a.parts, b.parts, strict=True):
            # A sum of convolutions plus something begins with that: each addition then follows a
            # convolution, and an engine does it while it writes the convolution's maps.
            if packet(node) is aten.add and len(p.convs) > 1 and len(n.users) == 1 and same_shape(n, node):
                parts.append(Part(self.sum_of(p.convs, q).node, p.maps))
            elif packet(node) is aten.add and len(q.convs) > 1 and len(m.users) == 1 and same_shape(m, node):
                parts.append(Part(self.sum_of(q.convs, p).node, q.maps))
            else:
                parts.append(Part(overwriting(self.call(node, p.node, q.node), same_shape(n, node)), p.maps))
        return Maps(tuple(parts), a.ghost or b.ghost)

    def first_maps(self, node: fx.Node, x: Maps) -> Any:
        """The first maps of a tensor: ``x[:, :end]`` or ``x.narrow(1, 0, end)``."""
        missing: list[Any] = [None] * (4 - len(node.args))
        _, dim, start, end, *step = [*arguments(node), *missing]
        if dim not in (1, -3) or rank(node) != 4 or start not in (0, None) or not isinstance(end, int) or step:
            return self.generic(node)
        if len(first(node).users) > 1:
            x = without_convs(x)
        parts: list[Part] = []
        left = min(end, x.bounds[-1]) if end >= 0 else x.bounds[-1] + end
        for part in x.parts:
            if left >= part.maps:
                parts.append(part)
            elif left > 0:
                parts.append(self.narrowed(part, 0, left))
            left -= part.maps
        return replace(x, parts=tuple(parts))

    def generic(self, node: fx.Node) -> Any:
        """The same operator on whole tensors."""
        target: Any = functional(node.target)
        args: Any = fx.map_arg(node.args, lambda n: self.joined(n, reader(node)))
        kwargs: Any = fx.map_arg(node.kwargs, lambda n: self.joined(n, reader(node)))
        return self.whole(self.graph.call_function(target, args, kwargs), node)

    # Pieces.

    def whole(self, new: fx.Node, node: fx.Node) -> Any:
        """The value of a node that is taken over whole: as ``Maps`` if it is a tensor ``[batch, maps, h, w]``."""
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.ndim == 4 and isinstance(value.shape[1], int):
            return Maps((Part(new, value.shape[1]),))
        return new

    def each(self, node: fx.Node, x: Maps) -> Maps:
        """The node's operator on every part."""
        return replace(x, parts=tuple(Part(self.call(node, p.node), p.maps, makers=p.makers) for p in x.parts))

    def call(self, node: fx.Node, *firsts: fx.Node) -> fx.Node:
        """The node's operator on other inputs."""
        target: Any = functional(node.target)
        rest: Any = fx.map_arg((node.args[len(firsts) :], dict(node.kwargs)), lambda n: self.joined(n, reader(node)))
        return self.graph.call_function(target, (*firsts, *rest[0]), rest[1])

    def joined(self, node: fx.Node, reader: str) -> Any:
        value = self.values[node]
        if isinstance(value, Constant):
            return self.constant(value.name, value.tensor)
        if isinstance(value, Maps):
            return self.join(value, node, reader)
        return value

    def join(self, value: Maps, node: fx.Node, reader: str) -> fx.Node:
        """The maps in one tensor."""
        if len(value.parts) == 1:
            return value.parts[0].node
        if value.ghost is not None and not is_pixel(node):
            self.joins.setdefault(value.ghost, f"{reader} takes its maps whole")
        return self.graph.call_function(aten.cat.default, ([part.node for part in value.parts], 1))

    def emit(self, name: str, filters: Filters, source: fx.Node, old: fx.Node) -> Conv:
        """A convolution of what ``source`` gives, in the place of a node of the old graph."""
        unique = self.free(name)
        conv = Conv(unique, filters, self.graph.call_module(unique, (source,)), old.name)
        self.convs.append(conv)
        return conv

    def free(self, name: str) -> str:
        """A name that no module has yet: a layer may come in parts, or run twice."""
        taken, number, free = {*self.linears, *(conv.name for conv in self.convs)}, 0, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        return free

    def sum_of(self, convs: Sequence[Conv], start: Part | None = None) -> Part:
        """The sum of convolutions of the parts of a tensor, plus ``start``."""
        node = convs[0].node
        for addend in [*([start.node] if start else []), *(conv.node for conv in convs[1:])]:
            node = overwriting(self.graph.call_function(aten.add.Tensor, (node, addend)))
        makers = tuple(dict.fromkeys(conv.old for conv in convs if conv.filters.groups == 1))
        return Part(node, len(convs[0].filters.weight), tuple(convs), () if start else makers)

    def cut(self, per_map: Tensor, x: Maps) -> Sequence[Tensor]:
        return per_map.split([part.maps for part in x.parts])

    def affine(self, part: Part, scale: Tensor, shift: Tensor, dtype: torch.dtype, node: fx.Node) -> Part:
        """A BatchNorm that could not be folded into a convolution.

        For maps it becomes a depthwise 1×1 convolution: engines add and activate while they write its maps.
        """
        name, dims = reader(node) + AFFINE, first(node).meta["val"].ndim
        if dims == 4:
            filters = Filters(scale[:, None, None, None], shift, part.maps, Geometry(), dtype)
            conv = self.emit(name, filters, part.node, node)
            return Part(conv.node, part.maps, (conv,))
        shape = (-1, *(1,) * (dims - 2))
        name += f"_{len(self.graph.nodes)}"
        scale_node = self.constant(f"{name}_scale", scale.to(dtype).reshape(shape))
        shift_node = self.constant(f"{name}_shift", shift.to(dtype).reshape(shape))
        return Part(self.graph.call_function(aten.addcmul.default, (shift_node, part.node, scale_node)), part.maps)

    def constant(self, name: str, tensor: Tensor) -> fx.Node:
        if name not in self.constants:
            buffer = "constant_" + name.replace(".", "_")
            while hasattr(self.root, buffer):  # "a.b" and "a_b" are two
                buffer += "_"
            self.root.register_buffer(buffer, tensor)
            self.constants[name] = buffer
        return self.graph.get_attr(self.constants[name])

    def narrowed(self, part: Part, start: int, end: int) -> Part:
        return Part(self.graph.call_function(aten.slice.Tensor, (part.node, 1, start, end)), end - start)

    def aligned(self, node: fx.Node, a: Maps, b: Maps) -> tuple[Maps, Maps]:
        """Both with the same bounds between their parts."""
        if a.bounds == b.bounds:
            return a, b
        n, m = arguments(node)[:2]
        if set(a.bounds) < set(b.bounds):
            return self.cut_at(a, b.bounds), b
        if set(b.bounds) < set(a.bounds):
            return a, self.cut_at(b, a.bounds)
        whole = [Maps((Part(self.join(v, o, reader(node)), v.bounds[-1]),), v.ghost) for v, o in ((a, n), (b, m))]
        return whole[0], whole[1]

    def cut_at(self, value: Maps, bounds: Sequence[int]) -> Maps:
        """Slice parts at further bounds, at which another pass can cut the convolutions that made them."""
        parts: list[Part] = []
        for begin, part in zip(value.bounds, value.parts, strict=False):
            own = [bound - begin for bound in bounds if begin <= bound <= begin + part.maps]
            if len(own) == 2:
                parts.append(part)
                continue
            parts += [self.narrowed(part, start, end) for start, end in pairwise(own)]
            self.found |= {name: own for name in part.makers if name not in self.cuts}
        return replace(value, parts=tuple(parts))


def without_convs(value: Maps) -> Maps:
    """The same maps with fixed convolutions, as something else reads them, too."""
    return replace(value, parts=tuple(replace(part, convs=()) for part in value.parts))


def add_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a path, with empty ones around it."""
    *around, last = name.split(".")
    for step in around:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(last, module)


def overwriting(node: fx.Node, possible: bool = True) -> fx.Node:
    """Mark a node whose result may overwrite its first input."""
    node.meta["overwriting"] = possible
    return node


def act_in_place(network: fx.GraphModule) -> None:
    """Let activations and sums overwrite the output of a convolution or a sum that only they read."""
    modules: Mapping[str, nn.Module] = dict(network.named_modules())
    for node in network.graph.nodes:
        if node.op != "call_function":
            continue
        # A result that another tensor makes larger has no room in the place of the first input.
        if not (node.meta.get("overwriting") or (packet(node) in ELEMENTWISE and not takes_others(node))):
            continue
        target, maker = node.target, first(node)
        changing = getattr(aten, packet(node).__name__ + "_", None)
        made = (maker.op == "call_module" and isinstance(modules[str(maker.target)], nn.Conv2d)) or (
            maker.op == "call_function" and packet(maker) in {aten.add, aten.addcmul}
        )
        assert isinstance(target, torch._ops.OpOverload)
        if made and len(maker.users) == 1 and changing is not None and target._overloadname in changing.overloads():
            node.target = getattr(changing, target._overloadname)
