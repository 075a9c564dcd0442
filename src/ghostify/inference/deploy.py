"""The same function in other operators, for inference."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from ghostify.errors import InputError, spelled
from ghostify.inference.engines import check_engine
from ghostify.inference.nodes import UnclearError
from ghostify.inference.rewrite import Rewriter
from ghostify.layers import GhostConv2d, GhostModule
from ghostify.plain_part import plain_part
from ghostify.structure.surgery import replace_modules_

Form = Literal["dense", "split", "joined"]
FORMS: tuple[Form, ...] = get_args(Form)
MOST = 2**31  # images in a batch; torch.export's own "no limit" is far more


@dataclass(frozen=True)
class DeployedGhost:
    """In which form a ghost layer computes now.

    Args:
        name: Module name in the network before.
        form: "dense": a convolution and a 1×1 convolution that makes all maps of the intrinsic ones;
            "split": intrinsic maps and ghosts stay two tensors; "joined": they are put into one.
        reason: Why joined; "" otherwise.
    """

    name: str
    form: Form
    reason: str = ""


class Deployed(nn.Module):
    """A network for inference, in eval mode.

    Args:
        network: Plain PyTorch operators.
        ghosts: The form of each ghost layer.
        memory_format: Memory order of the maps; None: that of the input.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        ghosts: tuple[DeployedGhost, ...],
        memory_format: torch.memory_format | None = None,
    ) -> None:
        super().__init__()
        self.network, self.ghosts, self.memory_format = network, ghosts, memory_format
        if memory_format is not None:
            self.to(memory_format=memory_format)
        super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs for inputs ``[batch, channels, height, width]``."""
        if self.memory_format is not None:
            x = x.contiguous(memory_format=self.memory_format)
        output: Tensor = self.network(x)
        return output

    def train(self, mode: bool = True) -> "Deployed":
        """Stay in eval mode: there is no BatchNorm left to learn with.

        Raises:
            InputError: If training is asked for.
        """
        if mode:
            raise InputError("a deployed network cannot learn: train the one it was made of")
        return self


def deploy(
    model: nn.Module, example: Tensor, *, engine: str | None = None, forms: Mapping[str, Form] | None = None
) -> Deployed:
    """Rewrite a network for inference: the same function in other operators.

    BatchNorm is folded into convolutions, dropout goes, and the maps of ghost layers need not be
    concatenated: intrinsic maps and ghosts travel as two tensors, a convolution that takes them becomes
    the sum of two, what acts on single maps (activations, pooling, gates, sums) acts on both. A layer of
    pointwise ghosts can become the convolution and a 1×1 convolution with the matrix [identity;
    combinations], in which the order of its maps vanishes.

    Args:
        model: Any network that ``torch.export`` can follow, or a detector, whose plain part is taken; left untouched.
        example: An input ``[batch, channels, height, width]`` on the network's device. Others may differ in
            batch, and in height and width where the network allows.
        engine: That is to run it; None: any. Only "eager", PyTorch as it is, gets another network: it starts every
            operator anew, so that fewer are faster, and depthwise ghosts are joined; and its convolutions prefer
            channels last.
        forms: Module names or fnmatch patterns of ghost layers, and their form; the first match counts.
            The others: dense for pointwise ghosts, split for depthwise ones, the fastest where it was measured
            (docs/performance.md); ``choose_forms`` measures it for a network, engine and machine.
    Returns:
        The network in eval mode; ``.ghosts`` has the form of each ghost layer, and why it is joined.
    Raises:
        InputError: If the network cannot be followed, cannot take the example, a form is not possible, or the engine
            is unknown.
    """
    if engine is not None:
        check_engine(engine)
    check_example(example)
    for pattern, form in (forms or {}).items():
        if form not in FORMS:
            raise InputError(f"{spelled('forms')}: {pattern!r} is to be {form!r}: expected one of {', '.join(FORMS)}")
    model = copied(plain_part(model)).eval().requires_grad_(False)
    layers = ghost_layers(model)
    eager = engine == "eager"
    chosen = {name: chosen_form(name, layer, forms or {}, fewer=eager) for name, layer in layers.items()}
    for pattern in forms or {}:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise InputError(f"{spelled('forms')}: {pattern!r} matches no ghost layer of the network")
    dense: dict[nn.Module, nn.Module] = {
        layer: dense_form(layer) for name, layer in layers.items() if chosen[name] == "dense"
    }
    model = replace_modules_(model, dense)

    def splits(name: str) -> bool:
        return chosen.get(name) == "split"

    try:
        graph = exported(model, example)
        rewriter = Rewriter(graph, splits)
        network = rewriter.run()
        while rewriter.found:  # ends: each convolution is found once at most
            rewriter = Rewriter(graph, splits, rewriter.cuts | rewriter.found)
            network = rewriter.run()
    except UnclearError as error:
        raise InputError(f"{type(model).__name__} cannot be deployed: {error}") from error

    def became(name: str) -> DeployedGhost:
        if chosen[name] == "dense":
            return DeployedGhost(name, "dense")
        if chosen[name] == "joined":
            asked = any(fnmatchcase(name, pattern) for pattern in forms or {})
            return DeployedGhost(
                name, "joined", "asked for" if asked else "fewer operators are faster in eager PyTorch"
            )
        reason = rewriter.joins.get(name, "" if name in rewriter.split else "it is not run for the example")
        return DeployedGhost(name, "joined" if reason else "split", reason)

    return Deployed(network, tuple(became(name) for name in layers), torch.channels_last if eager else None)


def check_example(example: Tensor) -> None:
    """Refuse what is no batch of maps."""
    if not isinstance(example, Tensor) or example.ndim != 4 or len(example) < 1:
        raise InputError(f"{spelled('example')}: expected an input [batch, channels, height, width]")


def copied(model: nn.Module) -> nn.Module:
    """A copy, or a word on why there is none."""
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # of tensors that a layer computed and keeps
        raise InputError(
            f"{type(model).__name__} cannot be copied, as a layer keeps a tensor that it computed: expected "
            "torch.nn.utils.remove_weight_norm after weight_norm, or that of torch.nn.utils.parametrizations instead"
        ) from error


def ghost_layers(model: nn.Module) -> dict[str, GhostConv2d | GhostModule]:
    """The layers that make ghosts, by module name."""
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, GhostConv2d) and module.cheap is not None)
        or (isinstance(module, GhostModule) and module.cheap_operation is not None)
    }


def chosen_form(name: str, layer: nn.Module, forms: Mapping[str, Form], *, fewer: bool = False) -> Form:
    """The form that is asked for, else dense where it can be, and split, or joined for fewer operators."""
    can_be_dense = isinstance(layer, GhostConv2d) and layer.combines
    form = next((form for pattern, form in forms.items() if fnmatchcase(name, pattern)), None)
    if form == "dense" and not can_be_dense:
        raise InputError(f"{spelled('forms')}: {name} cannot be dense: only pointwise GhostConv2d can")
    return form or ("dense" if can_be_dense else "joined" if fewer else "split")


def dense_form(layer: nn.Module) -> nn.Sequential:
    """The convolution, then a 1×1 convolution with the matrix [identity; combinations], rows in the layer's order."""
    assert isinstance(layer, GhostConv2d)
    assert layer.cheap is not None
    intrinsic, groups = layer.primary.out_channels, layer.groups
    per_group = intrinsic // groups
    identity = torch.eye(per_group, device=layer.primary.weight.device, dtype=layer.primary.weight.dtype)
    combinations = layer.cheap.weight.flatten(1).unflatten(0, (groups, -1))
    maps = layer.out_channels // groups
    matrix = torch.cat([identity.expand(groups, -1, -1), combinations], dim=1)[:, :maps].flatten(0, 1)
    offsets = torch.zeros_like(matrix[:, 0])
    if layer.cheap.bias is not None:
        own = layer.cheap.bias.unflatten(0, (groups, -1))
        offsets = torch.cat([own.new_zeros(groups, per_group), own], dim=1)[:, :maps].flatten()
    if layer.order is not None:
        matrix, offsets = matrix[layer.order], offsets[layer.order]
    mix = nn.Conv2d(intrinsic, layer.out_channels, 1, groups=groups, device="meta")
    mix.weight = nn.Parameter(matrix[:, :, None, None].contiguous(), requires_grad=False)
    mix.bias = nn.Parameter(offsets, requires_grad=False)
    merge = [] if layer.merge is None else [layer.merge]
    return nn.Sequential(*merge, layer.primary, mix).eval()


def exported(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """The network as a graph of ATen operators, for any batch, and any height and width where it allows."""
    x = example.detach()
    if len(x) == 1:  # a size of 1 would be taken for a constant
        x = x.expand(2, *x.shape[1:]).contiguous()
    try:
        with unlogged(), torch.no_grad():
            program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},))
        graph = program.module(check_guards=False)
    except Exception as error:  # torch.export runs the network's own code, which may raise anything
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{type(model).__name__} cannot be followed by torch.export: {line}") from error
    image = next(node for node in graph.graph.nodes if node.op == "placeholder")
    free = {
        str(size) for size, limits in program.range_constraints.items() if limits.lower <= 2 and limits.upper > MOST
    }
    if str(image.meta["val"].shape[0]) not in free:
        raise InputError(
            f"{type(model).__name__} computes a batch of {len(x)} in another way than others, and would be right for "
            "some only: expected a network that does the same for any batch"
        )
    return graph


@contextmanager
def unlogged() -> Iterator[None]:
    """Silence logs and standard error meanwhile, as of PyTorch that cannot follow a network: its error is one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):  # a graph that was begun is printed there
            yield
    finally:
        logging.disable(before)
