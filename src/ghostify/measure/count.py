"""Multiply-adds and parameters of any network, layer by layer."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ghostify.errors import InputError, first_sentence, spelled
from ghostify.hooks import hooked
from ghostify.modes import evaluating, without_inference_mode
from ghostify.plain_part import plain_part
from ghostify.wrappers import unwrapped


@dataclass(frozen=True)
class LayerCount:
    """One module that computes or holds parameters itself.

    Args:
        name: Full module name; "" is the network itself.
        kind: Name of the module's class.
        macs: Multiply-adds for one input.
        params: Parameters of the module itself, shared ones where they first occur.
        output_shape: Shape of its output without batch; None where it was not called or returned no tensor.
    """

    name: str
    kind: str
    macs: int
    params: int
    output_shape: tuple[int, ...] | None


class Cost(NamedTuple):
    """Multiply-adds for one input, and parameters."""

    macs: int
    params: int


@dataclass(frozen=True)
class Count:
    """Multiply-adds and parameters of a network for one input.

    Args:
        macs: Multiply-adds of convolutions, linear layers and other matrix products.
        params: All parameters, shared ones once; buffers are not counted.
        layers: The layers in the order of ``named_modules``.
        unknown: Operators without a formula, and the number of times that they ran; their work is not in ``macs``.
    """

    macs: int
    params: int
    layers: tuple[LayerCount, ...]
    unknown: dict[str, int]

    def of(self, name: str) -> Cost:
        """The cost of a module and all inside it."""
        inside = [layer for layer in self.layers if not name or f"{layer.name}.".startswith(f"{name}.")]
        return Cost(sum(layer.macs for layer in inside), sum(layer.params for layer in inside))


def count(model: nn.Module, input_shape: Sequence[int]) -> Count:
    """Count a network's multiply-adds and parameters for one input, in eval mode.

    A convolution costs n·h'·w'·c·k·k and a depthwise one n·h'·w'·k·k (Han et al. 2020,
    arXiv:1911.11907, section 3.2), a linear layer inputs·outputs. Bias, BatchNorm, activations, pooling,
    resampling, sorting and random numbers cost nothing by that convention. The papers call these multiply-adds FLOPs.
    The formulas are those of ``torch.utils.flop_counter``, also the ones that a user registers there.

    Args:
        model: Any network that takes one tensor, or a detector; it is given back unchanged. A detector's choice of
            boxes is not counted (``plain_part``); a Faster R-CNN's second stage is, for as many regions as it looks at.
        input_shape: Shape of one input without batch, such as ``(3, 224, 224)``.
    Raises:
        InputError: If the network cannot take such an input.
    Example:
        >>> layer = nn.Conv2d(3, 8, 3, padding=1)
        >>> count(layer, (3, 5, 7)).macs == 8 * 5 * 7 * 3 * 3 * 3
        True
    """
    if not input_shape or any(not isinstance(size, int) or size < 1 for size in input_shape):
        raise InputError(
            f"{spelled('input_shape')} is {tuple(input_shape)}: expected positive whole numbers such as (3, 224, 224)"
        )
    model = plain_part(unwrapped(model), second_stage=True)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    try:
        counter = counted_run(model, torch.empty(1, *input_shape, dtype=dtype, device="meta"), on_meta=True)
    except Exception:  # noqa: BLE001  # no meta kernel, a tensor of its own, or a bad input: a real run shows which
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        try:
            counter = counted_run(model, torch.zeros(1, *input_shape, dtype=dtype, device=device), on_meta=False)
        except Exception as error:  # whatever the network's own code raises
            shape = "×".join(map(str, input_shape))
            raise InputError(
                f"{type(model).__name__} cannot take an input of {shape}: {first_sentence(error)}"
            ) from error
    return counter.result(model)


def counted_run(model: nn.Module, example: Tensor, on_meta: bool) -> "MacCounter":
    """Run the network once under a counter; on the meta device only shapes are computed.

    It runs on copies of its buffers, and gives back the random state.
    """
    names = {module: name for name, module in reversed(list(model.named_modules()))}
    counter = MacCounter(names)
    # The fused attention kernel hides its matrix products from the counter; so does inference mode all operators that
    # are made of others.
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.random.fork_rng([example.device] if example.is_cuda else []),
            evaluating(model),
            without_inference_mode(),
            torch.no_grad(),
            hooked(names, before=counter.enter, after=counter.leave),
            counter,
        ):
            state = meta_state(model) if on_meta else own_buffers(model)
            counter.forget()
            torch.func.functional_call(model, state, (example,), tie_weights=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter


def meta_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer on the meta device, under one name for each module that holds it.

    A module that occurs under two names must have one here: functional_call would swap its tensors twice, and leave
    those without data in it.
    """
    state: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        state.update(module.named_parameters(prefix, recurse=False))
        state.update(module.named_buffers(prefix, recurse=False))
    return {name: tensor.detach().to("meta") for name, tensor in state.items()}


def own_buffers(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every buffer, under one name for each module that holds it."""
    modules = model.named_modules()
    held = {name: buffer for prefix, m in modules for name, buffer in m.named_buffers(prefix, recurse=False)}
    return {name: buffer.clone() for name, buffer in held.items()}


class MacCounter(TorchDispatchMode):
    """Adds up the multiply-adds of every operator that runs, under the module that ran it."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        super().__init__()
        self.names = names
        self.stack = [""]
        self.macs: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.output_shapes: dict[str, tuple[int, ...]] = {}

    def forget(self) -> None:
        self.macs.clear()
        self.unknown.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        out = func(*args, **kwargs)
        if packet in flop_registry:  # PyTorch's formulas, by which a multiply-add is two
            self.macs[self.stack[-1]] += flop_registry[packet](*args, **kwargs, out_val=out) // 2
        elif packet in PRODUCTS:
            self.macs[self.stack[-1]] += PRODUCTS[packet](*args)
        elif not is_free(func):
            self.unknown[str(packet)] += 1
        return out

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.stack.append(self.names[module])

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.stack.pop()
        if isinstance(output, Tensor):
            self.output_shapes[self.names[module]] = tuple(output.shape[1:])

    def result(self, model: nn.Module) -> Count:
        layers, seen = [], set()
        for name, module in model.named_modules():
            own = [p for p in module.parameters(recurse=False) if p not in seen]
            seen.update(own)
            if own or self.macs[name]:
                params, shape = sum(p.numel() for p in own), self.output_shapes.get(name)
                layers.append(LayerCount(name, type(module).__name__, self.macs[name], params, shape))
        params = sum(p.numel() for p in model.parameters())
        return Count(self.macs.total(), params, tuple(layers), dict(sorted(self.unknown.items())))


# Multiply-adds of the products that PyTorch has no formula for, from the operator's arguments.
PRODUCTS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.dot: lambda a, b: a.numel(),
    torch.ops.aten.vdot: lambda a, b: a.numel(),
    torch.ops.aten.mv: lambda matrix, vector: matrix.numel(),
    torch.ops.aten.addmv: lambda start, matrix, vector: matrix.numel(),
    torch.ops.aten.addbmm: lambda start, a, b: a.numel() * b.shape[-1],
    # Recurrent layers in one kernel: at each step all matrices, from the input and from what came before.
    torch.ops.aten.mkldnn_rnn_layer: lambda x, of_input, of_state, *_: recurrent_macs(x, (of_input, of_state)),
    torch.ops.aten._cudnn_rnn: lambda x, weights, *_: recurrent_macs(x, weights),
}

# Operators without multiply-adds by the convention, beside pointwise ones and views, which torch tags.
# In-place forms (with a trailing underscore) are the same operators.
FREE = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _embedding_bag_forward_only _fused_rms_norm _log_softmax
    _masked_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax
    _to_copy _unique2 _unsafe_index _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm_interface
    adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator all amax amin aminmax any arange argmax argmin
    as_strided as_strided_scatter avg_pool1d avg_pool2d avg_pool3d bernoulli bincount block_diag bucketize cat
    channel_shuffle clone col2im constant_pad_nd copy count_nonzero cudnn_batch_norm cummax cummin cumprod cumsum
    diag_embed diagonal_scatter embedding empty empty_like empty_permuted empty_strided exponential eye
    fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask fill flip fractional_max_pool2d
    fractional_max_pool3d full full_like gather glu grid_sampler_2d grid_sampler_3d hardsigmoid hardswish histc im2col
    index index_add index_copy index_fill index_put index_reduce index_select isin kthvalue lift lift_fresh
    lift_fresh_copy linalg_cross linalg_vector_norm linspace log_sigmoid_forward logcumsumexp logspace logsumexp
    masked_fill masked_scatter masked_select max max_pool2d_with_indices max_pool3d_with_indices max_unpool2d
    max_unpool3d mean median min mode multinomial nanmedian nansum native_batch_norm native_channel_shuffle
    native_dropout native_group_norm native_layer_norm new_empty new_empty_strided new_full new_ones new_zeros nonzero
    normal ones ones_like pad pixel_shuffle pixel_unshuffle polar prod put rand rand_like randint randint_like randn
    randn_like randperm reflection_pad1d reflection_pad2d reflection_pad3d renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize roll rot90 rrelu_with_noise scalar_tensor scatter
    scatter_add scatter_reduce searchsorted select_copy select_scatter set slice_copy slice_scatter sort split_copy
    split_with_sizes stack std sum take topk trace tril tril_indices triu triu_indices uniform unique_consecutive
    unique_dim unsafe_split upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean where zero zeros zeros_like
    """.split()
)


def recurrent_macs(x: Tensor, weights: Sequence[Tensor]) -> int:
    """Multiply-adds of a recurrent kernel for ``x``, ``[..., inputs]``: each matrix is used once at each step."""
    return x.shape[:-1].numel() * sum(weight.numel() for weight in weights if weight.ndim == 2)


def is_free(func: Any) -> bool:
    """True if an operator has no multiply-adds by the convention."""
    return (
        func.is_view
        or torch.Tag.inplace_view in func.tags
        or torch.Tag.pointwise in func.tags
        or func.overloadpacket.__name__.rstrip("_") in FREE
        or is_query(func)
    )


def is_query(func: Any) -> bool:
    """True if an operator returns no tensor, but a device or a size."""
    return not any(isinstance(returned.type, torch.TensorType | torch.ListType) for returned in func._schema.returns)
