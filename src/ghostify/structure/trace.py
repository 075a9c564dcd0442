"""Where channels go: each number of a run is followed back to the convolution's channel that it comes from."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ghostify.modes import evaluating
from ghostify.structure.surgery import tensors_in

# Operators of ATen by what they do to channels; any other ends the way of those that it takes.
SAME = {"clone", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "lift_fresh_copy"}
SAME |= {"as_strided_"}  # by which pooling of maps in channels last gives its output that layout
SAME |= {"hardswish", "hardswish_", "_prelu_kernel", "log_sigmoid_forward", "copy_"}  # pointwise, without ATen's tag
MOVING = {"view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "squeeze"}
MOVING |= {"unsqueeze", "slice", "select", "split", "split_with_sizes", "unbind", "cat", "stack", "flip", "roll"}
MOVING |= {
    "repeat",
    "index",
    "_unsafe_index",
    "index_select",
    "as_strided",
    "unfold",
    "pixel_shuffle",
    "pixel_unshuffle",
}
MOVING |= {
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "unsafe_split",
    "unsafe_chunk",
    "diagonal",
    "swapaxes",
}
# Each map by itself, to one of perhaps another size.
BY_MAP = {"max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "reflection_pad2d"}
BY_MAP |= {"replication_pad2d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d"}
BY_MAP |= {"upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d"}
NORMS = {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}
NORMS |= {"miopen_batch_norm", "_batch_norm_with_update", "batch_norm"}
LINEAR = {"addmm", "mm", "linear", "mkldnn_linear"}
# Over the dimensions that their argument ``dim`` names.
REDUCING = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "any", "all"}
REDUCING |= {"linalg_vector_norm", "norm", "argmax", "argmin", "logsumexp", "median"}
REDUCING |= {"_softmax", "_log_softmax", "cumsum", "cumprod", "sort"}

TIED = "its weight is another layer's, too"
OUTPUT = "its channels are the network's output"
TOGETHER = "its channels are concatenated with others, or split"
MOVED = "its channels do not arrive in their places in the layers that take them"


@dataclass(frozen=True)
class Origin:
    """Channels that numbers of a run come from: those that a convolution makes, or the rows of a module's weights.

    Args:
        name: Module name.
        size: How many channels.
        first: The number of the first one; the others follow.
        made: True for those that a convolution makes.
    """

    name: str
    size: int
    first: int
    made: bool


@dataclass
class Way:
    """Where the channels of a convolution went.

    Args:
        consumers: Names of the convolutions and linear layers that take them.
        followers: Names of the layers between that have weights for each.
        gated: Names of the convolutions whose channels these multiply, one for one.
        unit: Channels that go together: those of a grouped convolution's group.
        reason: Why they cannot be dropped, or "".
    """

    consumers: list[str] = field(default_factory=list)
    followers: list[str] = field(default_factory=list)
    gated: list[str] = field(default_factory=list)
    unit: int = 1
    reason: str = ""


class ChannelTrace(TorchDispatchMode):
    """Follows channels through all that runs meanwhile, operator by operator.

    To each tensor whose numbers come from channels belongs a tensor of the same shape that says from which: a channel's
    number, or 0. Operators that only move numbers are done to these, too; so no shape needs to be understood.

    Args:
        model: The network that will run.
        convs: Names of the convolutions whose channels are followed.
    """

    def __init__(self, model: nn.Module, convs: Collection[str]) -> None:
        super().__init__()
        self.model = model
        self.convs = set(convs)
        self.ways = {name: Way(reason="grouped" if grouped(model, name) else "") for name in convs}
        self.origins: list[Origin] = []
        self.of_channel = [-1]  # index of the origin of each channel; none of 0
        self.known = WeakTensorKeyDictionary()
        self.tied: set[str] = set()  # names of modules whose tensors are others', too
        for name, module in model.named_modules():
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            found: dict[int, Origin] = {}
            for tensor in tensors:
                if tensor in self.known:
                    self.tied |= {name, self.found_in(self.known[tensor])[0].name}
                if not tensor.ndim or tensor in self.known:
                    continue
                rows = tensor.shape[row_dim(tensor)]
                if rows not in found:
                    found[rows] = self.new_origin(name, rows, made=False)
                self.known[tensor] = numbered(found[rows], tensor, row_dim(tensor))
        for name in self.tied & self.convs:
            self.ways[name].reason = TIED

    def new_origin(self, name: str, size: int, *, made: bool) -> Origin:
        """Numbers for the channels of one more origin."""
        origin = Origin(name, size, len(self.of_channel), made)
        self.of_channel += [len(self.origins)] * size
        self.origins.append(origin)
        return origin

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = func._schema.name.removeprefix("aten::")
        if operator not in NORMS | BY_MAP:
            with self:
                # In inference mode, those that others are made of arrive whole.
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        outputs = func(*args, **kwargs)
        self.follow(func, operator, args, kwargs, outputs)
        return outputs

    def follow(self, func: Any, operator: str, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any) -> None:
        """Say where the numbers of an operator's outputs come from."""
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if not any(tensor in self.known for tensor in taken):
            return
        before = [self.known.get(tensor) for tensor in taken]
        found: list[Tensor | None]
        if operator == "convolution":
            found = [self.convolution(args, given[0])]
        elif operator in LINEAR:
            self.linear(operator, args)
            found = [None]
        elif operator in NORMS:
            found = [self.norm(taken), *[None] * (len(given) - 1)]
        elif operator in SAME or torch.Tag.pointwise in func.tags:
            found = [self.pointwise(operator, taken, output) for output in given]
        elif operator.endswith("_like"):
            found = [self.known.get(taken[0])]
        elif operator.startswith("new_"):
            found = [None]  # of sizes that the network's code names
        elif operator in MOVING or (operator == "constant_pad_nd" and len(args[1]) > 4):
            found = self.moved(func, args, kwargs)
        elif operator in BY_MAP or operator == "constant_pad_nd":
            found = [self.by_map(operator, taken, output) for output in given]
        elif operator in REDUCING:
            found = self.reduced(func, operator, args, kwargs, given)
        else:
            self.stop(before, f"its channels go into {operator.strip('_')}")
            found = [None] * len(given)
        if func._schema.is_mutable and operator not in NORMS:
            # Others may be views of what was written to: their channels must be what they were.
            for tensor, now in zip(given, found, strict=True):
                was = self.known.get(tensor)
                if not same(was, now):
                    self.stop([was, now], "its channels are written into a part of a tensor")
                    found = [None] * len(given)
        for tensor, origin in zip(given, found, strict=True):
            if origin is not None and origin.shape == tensor.shape:
                self.known[tensor] = origin
            else:
                self.known.pop(tensor, None)

    def convolution(self, args: Sequence[Any], output: Tensor) -> Tensor | None:
        """A layer takes channels, and makes others."""
        x, weight, transposed, groups = args[0], args[1], args[6], args[8]
        name, channels = self.owner(weight), along(self.known.get(x), 1)
        conv = None if name is None else self.model.get_submodule(name)
        if name is None or not isinstance(conv, nn.ConvTranspose2d if transposed else nn.Conv2d):
            layer = f"{name}, which is no Conv2d" if name else "a convolution whose weight is not its own alone"
            self.stop([self.known.get(x)], f"its channels go into {layer}")
            return None
        if channels is None:
            self.stop([self.known.get(x)], MOVED)
        elif groups == 1:
            self.consumer(name, channels, 1)
        elif conv.in_channels == conv.out_channels and not transposed:
            # Depthwise, or of several channels in a group, which it takes and makes together.
            return self.follower(name, channels, output, 1, unit=conv.in_channels // groups)
        else:
            self.stop([channels], "a grouped convolution takes its channels")
        if transposed or groups > 1:
            return None
        if name not in self.ways:
            if output[0, 0].numel() > 1:
                return None
            self.ways[name] = Way()  # perhaps a gate's
        return numbered(self.new_origin(name, output.shape[1], made=True), output, 1)

    def linear(self, operator: str, args: Sequence[Any]) -> None:
        """A linear layer takes channels, flattened."""
        x, weight = args[1:3] if operator == "addmm" else args[:2]
        name, channels = self.owner(weight), along(self.known.get(x), 1)
        if name is None or channels is None or not isinstance(self.model.get_submodule(name), nn.Linear):
            self.stop([self.known.get(x)], "its channels go into a product of matrices")
            return
        self.consumer(name, channels, None)

    def consumer(self, name: str, channels: Tensor, area: int | None) -> None:
        """Note that a layer takes channels; all of one convolution, in their order, or the way ends.

        Args:
            channels: Numbers of its inputs.
            area: Inputs for each channel; None: any number.
        """
        for origin in self.made_in(channels):
            times = len(channels) // origin.size if area is None else area
            own = torch.arange(origin.first, origin.first + origin.size, device=channels.device)
            if not self.holds_its_weight(name):
                self.refuse(origin, f"{name} takes its channels, and computes its weights")
            elif torch.equal(channels, own.repeat_interleave(times)):
                self.ways[origin.name].consumers.append(name)
            elif not self.is_whole(channels, origin):
                self.refuse(origin, TOGETHER)
            else:
                self.refuse(origin, MOVED)

    def norm(self, taken: Sequence[Tensor]) -> Tensor | None:
        """A normalisation of each channel by its own numbers."""
        x, *own = taken
        names = {self.owner(tensor) for tensor in own}
        origin = self.known.get(x)
        channels = along(origin, 1)
        if channels is None or len(names) > 1:
            self.stop([origin], "its channels go into a normalisation across them")
            return None
        name = names.pop() if names else None
        if name is None:
            return origin if not own else None
        return self.follower(name, channels, x, 1)

    def follower(self, name: str, channels: Tensor, output: Tensor, dim: int, unit: int = 1) -> Tensor | None:
        """Note that a layer has weights for each channel, or for each unit of some, and pass them on."""
        passed = None
        for origin in self.made_in(channels):
            if not self.is_whole(channels, origin):
                self.refuse(origin, TOGETHER)
            elif not in_order(channels, origin):
                self.refuse(origin, MOVED)
            elif not self.has_rows(name, origin.size):
                self.refuse(origin, f"{name or 'the network'} has other weights than one row for each of its channels")
            else:
                way = self.ways[origin.name]
                way.followers.append(name)
                way.unit = math.lcm(way.unit, unit)
                passed = numbered(origin, output, dim)
        return passed

    def has_rows(self, name: str, size: int) -> bool:
        """True if a module's own tensors have a row for each channel, or are single numbers.

        Layers in it, such as the activation of timm's BatchNormAct2d, are met on their own where they have weights.
        """
        module = self.model.get_submodule(name)
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        return all(t.shape[row_dim(t)] == size for t in tensors if t.ndim)

    def pointwise(self, operator: str, taken: Sequence[Tensor], output: Tensor) -> Tensor | None:
        """Numbers at the same place meet: they must be of the same channel, or of none."""
        spread = [broadcast(self.known.get(tensor), output) for tensor in taken]
        known = [ids for ids in spread if ids is not None]
        if not any(map(self.made_in, known)):
            # Weights of one module, computed from each other.
            return known[0] if known and all(same(known[0], ids) for ids in known[1:]) else None
        if (gated := self.gated(taken, spread)) is not None:
            return gated
        result = None
        for place, ids in enumerate(spread):
            if ids is None or not self.made_in(ids):
                continue
            varying = [dim for dim in range(output.ndim) if not constant_along(ids, dim)]
            others = [other for other in range(len(taken)) if other != place and meets(taken[other], output, varying)]
            if not all(self.agree(ids, spread[other], varying, output) for other in others):
                self.stop([ids], f"its channels meet others in {operator.strip('_')}")
            elif result is None or same(result, ids):
                result = ids
            else:  # a single channel, which all others meet
                single, result = (ids, result) if not varying else (result, ids)
                self.stop([single], f"its channels meet others in {operator.strip('_')}")
        return result

    def gated(self, taken: Sequence[Tensor], spread: Sequence[Tensor | None]) -> Tensor | None:
        """Channels that meet single pixels of another convolution, one for one: those go where these go.

        So does squeeze and excite: ``x * gate(x)``.
        """
        if len(taken) != 2 or any(tensor.ndim != 4 for tensor in taken):
            return None
        single = [place for place, tensor in enumerate(taken) if tensor[0, 0].numel() == 1]
        if len(single) != 1:
            return None
        ways: list[Origin] = []
        for place in (1 - single[0], single[0]):
            made, channels = self.made_in(spread[place]), along(spread[place], 1)
            if len(made) != 1 or channels is None or not in_order(channels, made[0]):
                return None
            ways.append(made[0])
        maps, gate = (origin.name for origin in ways)
        if maps == gate or ways[0].size != ways[1].size or self.ways[maps].reason or not self.holds_its_weight(gate):
            return None
        self.ways[maps].followers.append(gate)
        self.ways[gate].gated.append(maps)
        return spread[1 - single[0]]

    def holds_its_weight(self, name: str) -> bool:
        """True if a layer's weight is a parameter, and not computed anew each time, as by spectral_norm's hook."""
        return "weight" in self.model.get_submodule(name)._parameters

    def agree(self, ids: Tensor, others: Tensor | None, varying: Sequence[int], output: Tensor) -> bool:
        """True if numbers that meet channels are of the same ones, or a layer's weights, one for each channel."""
        if others is None or same(others, ids):
            return others is not None
        found, channels = self.found_in(others), None if len(varying) != 1 else along(ids, varying[0])
        rows = None if channels is None else along(others, varying[0])
        if len(found) != 1 or found[0].made or found[0].name in self.tied or rows is None or channels is None:
            return False
        if not torch.equal(rows - found[0].first, channels - self.made_in(ids)[0].first):
            return False
        return self.follower(found[0].name, channels, output, varying[0]) is not None

    def moved(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor | None]:
        """The same moves for the numbers of channels."""

        def ids(value: Any) -> Any:
            if isinstance(value, Tensor):
                known = self.known.get(value)
                if known is None:
                    known = torch.zeros((), dtype=torch.int32, device=value.device).expand(value.shape)
                return known
            return [ids(item) for item in value] if isinstance(value, list | tuple) else value

        data, rest = ids(args[0]), args[1:]
        try:
            found = func(data, *rest, **kwargs)
        except RuntimeError:  # a view that only the tensor's own layout allows
            found = func(data.contiguous(), *rest, **kwargs)
        result = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        return [leaf if bool(compact(leaf).any()) else None for leaf in result]

    def by_map(self, operator: str, taken: Sequence[Tensor], output: Tensor) -> Tensor | None:
        """Each map becomes another one."""
        origin = self.known.get(taken[0])
        if any(tensor in self.known for tensor in taken[1:]):
            self.stop([self.known.get(tensor) for tensor in taken[1:]], f"its channels go into {operator.strip('_')}")
        if origin is None:
            return None
        whole = origin.ndim >= 3 and all(constant_along(origin, dim) for dim in (-2, -1))
        if not whole or origin.shape[:-2] != output.shape[:-2]:
            self.stop([origin], f"its channels go into {operator.strip('_')}")
            return None
        return origin[..., :1, :1].expand(output.shape)

    def reduced(
        self, func: Any, operator: str, args: Sequence[Any], kwargs: Mapping[str, Any], given: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Numbers of the same channel are put together, or the way ends."""
        origin = self.known.get(args[0])
        if origin is None:
            return [None] * len(given)
        names = [argument.name for argument in func._schema.arguments]
        dim = (dict(zip(names, args, strict=False)) | dict(kwargs)).get("dim")
        dims = [dim] if isinstance(dim, int) else list(dim or range(origin.ndim))
        if not all(constant_along(origin, d) for d in dims):
            self.stop([origin], f"its channels are put together by {operator.strip('_')}")
            return [None] * len(given)
        for d in dims:
            origin = origin.narrow(d, 0, 1)
        gone = {d % origin.ndim for d in dims}
        left = [size for index, size in enumerate(origin.shape) if index not in gone]
        return [origin.expand(t.shape) if t.ndim == origin.ndim else origin.reshape(left) for t in given]

    def end(self, outputs: Any) -> None:
        """Note what the network returns."""
        for tensor in tensors_in(outputs):
            self.stop([self.known.get(tensor)], OUTPUT)

    def stop(self, origins: Sequence[Tensor | None], reason: str) -> None:
        """Channels cannot be dropped."""
        for ids in origins:
            for origin in self.made_in(ids):
                self.refuse(origin, reason)

    def refuse(self, origin: Origin, reason: str) -> None:
        """A convolution's channels cannot be dropped; the first reason is kept."""
        self.ways[origin.name].reason = self.ways[origin.name].reason or reason

    def found_in(self, ids: Tensor | None) -> list[Origin]:
        """The origins of numbers."""
        if ids is None:
            return []
        own = {self.of_channel[channel] for channel in compact(ids).unique().tolist() if channel}
        return [self.origins[index] for index in sorted(own)]

    def made_in(self, ids: Tensor | None) -> list[Origin]:
        """The convolutions from whose channels numbers come."""
        return [origin for origin in self.found_in(ids) if origin.made]

    def owner(self, weight: Tensor) -> str | None:
        """The name of the module to which a weight belongs."""
        found = self.found_in(self.known.get(weight))
        return found[0].name if len(found) == 1 and not found[0].made and found[0].name not in self.tied else None

    def is_whole(self, channels: Tensor, origin: Origin) -> bool:
        """True if all numbers come from one origin's channels, and no channel is missing."""
        inside = bool(((channels >= origin.first) & (channels < origin.first + origin.size)).all())
        return inside and len(channels.unique()) == origin.size


def grouped(model: nn.Module, name: str) -> bool:
    """True if a convolution's channels depend on some of its inputs only: so would those behind it."""
    return getattr(model.get_submodule(name), "groups", 1) > 1


def row_dim(tensor: Tensor) -> int:
    """The dimension of a layer's weights that has a row for each of its channels: the first, or the only long one."""
    long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
    return long[0] if len(long) == 1 else 0


def numbered(origin: Origin, like: Tensor, dim: int) -> Tensor:
    """The numbers of an origin's channels along a dimension of a tensor."""
    shape = [1] * like.ndim
    shape[dim] = origin.size
    own = torch.arange(origin.first, origin.first + origin.size, dtype=torch.int32, device=like.device)
    return own.view(shape).expand(like.shape)


def in_order(channels: Tensor, origin: Origin) -> bool:
    """True if these are all channels of an origin, once each and in their order."""
    return torch.equal(channels, torch.arange(origin.first, origin.first + origin.size, device=channels.device))


def compact(ids: Tensor) -> Tensor:
    """A tensor without its repetitions."""
    for dim, stride in enumerate(ids.stride()):
        if stride == 0 and ids.shape[dim] > 1:
            ids = ids.narrow(dim, 0, 1)
    return ids


def constant_along(ids: Tensor, dim: int) -> bool:
    """True if all numbers along a dimension are the same."""
    if ids.shape[dim] <= 1 or ids.stride(dim) == 0:
        return True
    ids = compact(ids)
    return bool((ids == ids.narrow(dim, 0, 1)).all())


def along(ids: Tensor | None, dim: int) -> Tensor | None:
    """The numbers along a dimension, if they are the same along all others; None if not."""
    if ids is None or ids.ndim <= dim:
        return None
    if not all(constant_along(ids, other) for other in range(ids.ndim) if other != dim):
        return None
    return ids[tuple(slice(None) if index == dim else 0 for index in range(ids.ndim))]


def broadcast(ids: Tensor | None, output: Tensor) -> Tensor | None:
    """Numbers in the shape of an output; None where they do not fit."""
    try:
        return None if ids is None else ids.expand(output.shape)
    except RuntimeError:
        return None


def meets(other: Tensor, output: Tensor, varying: Sequence[int]) -> bool:
    """True if another operand has several numbers along a dimension in which channels vary."""
    missing = output.ndim - other.ndim
    return any(dim >= missing and other.shape[dim - missing] > 1 for dim in varying)


def same(ids: Tensor | None, others: Tensor | None) -> bool:
    """True if numbers come from the same channels."""
    if ids is others or ids is None or others is None:
        return ids is others
    if ids.shape == others.shape and ids.stride() == others.stride():
        ids, others = compact(ids), compact(others)
    return torch.equal(ids, others)


@torch.no_grad()
def trace_channels(model: nn.Module, example: Tensor, convs: Collection[str]) -> dict[str, Way]:
    """Where the channels of convolutions go when the network runs, by name; with those of others that may be gates.

    Args:
        model: Left untouched; run in eval mode.
        example: One batch for it.
        convs: Module names.
    """
    trace = ChannelTrace(model, convs)
    with evaluating(model), trace:
        outputs = model(example.clone())
    trace.end(outputs)
    for way in trace.ways.values():
        way.reason = way.reason or ("" if way.consumers or way.gated else "no layer takes its channels")
    return trace.ways
