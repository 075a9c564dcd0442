"""The same function in other operators, for inference."""

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from io import StringIO
from operator import attrgetter
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode

from ghostify.errors import InputError, first_sentence, spelled
from ghostify.inference.any_batch import BATCHES, for_any_batch
from ghostify.inference.engines import check_engine
from ghostify.inference.nodes import UnclearError, first, is_functional, is_in_place
from ghostify.inference.rewrite import Rewriter
from ghostify.layers import GhostConv2d, GhostModule
from ghostify.modes import without_inference_mode
from ghostify.plain_part import plain_part
from ghostify.structure.surgery import READABLE, replace_modules_, tensors_in
from ghostify.timelimit import within
from ghostify.wrappers import unwrapped

Form = Literal["dense", "split", "joined"]
FORMS: tuple[Form, ...] = get_args(Form)
MOST = 2**31  # images in a batch; torch.export's own "no limit" is far more
# Seconds that it may take to follow a network for inputs of any size: where windows are cut out of maps again and
# again, the conditions on the size outgrow SymPy. Without free sizes a few seconds are enough.
LONGEST = 40.0
# In which a network that takes the size of a batch as a number is tried, and what is still rounding there.
SMALL_BATCHES, SAME = (1, 2, 3), 1e-3


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
        check_size: Called with each input from outside of a trace: refuses those of a size for which the network would
            do something else; None: it does the same for all.
    Attributes:
        fixed_size: Height and width of all inputs, None for one that is free. A size is fixed where the network makes
            an operator's setting of it, as the kernel of a pooling.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        ghosts: tuple[DeployedGhost, ...],
        memory_format: torch.memory_format | None = None,
        fixed_size: tuple[int | None, int | None] = (None, None),
        check_size: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.ghosts, self.memory_format = network, ghosts, memory_format
        self.fixed_size, self.check_size = fixed_size, check_size
        if memory_format is not None:
            self.to(memory_format=memory_format)
        super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs for inputs ``[batch, channels, height, width]``.

        Raises:
            InputError: If the network would do something else for inputs of this size.
        """
        if self.check_size is not None and not torch.compiler.is_compiling():
            self.check_size(x)
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
        example: An input ``[batch, channels, height, width]`` on the network's device, in its data type. Others may
            differ in batch, and in height and width where the network allows (``.fixed_size``).
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
    model = copied(plain_part(unwrapped(model))).eval().requires_grad_(False)
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
        found = exported(model, example)
        rewriter = Rewriter(found.graph, splits)
        network = rewriter.run()
        while rewriter.found:  # ends: each convolution is found once at most
            rewriter = Rewriter(found.graph, splits, rewriter.cuts | rewriter.found)
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

    guards = getattr(found.program.module(check_guards=True), "_guards_fn", None)
    check_size = None if guards is None else partial(refuse_size, guards, (found.batch, *example.shape[2:]))
    ghosts = tuple(became(name) for name in layers)
    return Deployed(
        network, ghosts, torch.channels_last if eager else None, fixed_size(check_size, example), check_size
    )


def check_example(example: Tensor) -> None:
    """Refuse what is no batch of maps."""
    if not isinstance(example, Tensor) or example.ndim != 4 or len(example) < 1:
        raise InputError(f"{spelled('example')}: expected an input [batch, channels, height, width]")


class CopyingValues(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy the values of tensors that a layer computed and keeps, as masked weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]


def copied(model: nn.Module) -> nn.Module:
    """A copy; the network keeps all that its layers computed and keep."""
    with CopyingValues():
        return copy.deepcopy(model)


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
    dense = nn.Sequential(*merge, layer.primary, mix)
    # The network's code may read a convolution's settings, and what somebody put on it.
    settings = {name: getattr(layer, name) for name in READABLE}
    vars(dense).update(settings | {name: value for name, value in vars(layer).items() if not name.startswith("_")})
    return dense.eval()


@dataclass(frozen=True)
class Followed:
    """A network as ATen operators.

    Args:
        program: The network as torch.export has it.
        graph: Its graph, without changes in place.
        batch: Images of the example that it was followed for.
    """

    program: ExportedProgram
    graph: fx.GraphModule
    batch: int


def exported(model: nn.Module, example: Tensor) -> Followed:
    """The network as ATen operators, for any batch, and any height and width where it allows."""
    name, x = type(model).__name__, images_like(example, 2)  # a size of 1 would be taken for a constant
    sides: Any = Dim.AUTO
    try:
        found = within(LONGEST, partial(followed, model, x, sides))
    except Exception:  # noqa: BLE001  # torch.export runs the network's own code, which may raise anything
        sides = None
        try:  # as where the size becomes an operator's setting, or where windows of maps are cut out again and again
            found = followed(model, x, sides)
        except InputError:
            raise
        except Exception as error:  # the network's own code again, to be said in a line
            own = next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
            other = f"; the network is {named(own)}, the example {named(x.dtype)}" if own != x.dtype else ""
            if isinstance(error, GuardOnDataDependentSymNode):
                raise InputError(
                    f"{name} goes one way or another by numbers that it computes, which torch.export cannot follow: "
                    "expected a forward that takes the same steps for all inputs"
                ) from error
            if opaque := re.search(r"Found <class '(?:.*\.)?(\w+)'> in output", str(error)):
                raise InputError(
                    f"{name} returns {opaque[1]}, a class that torch.export does not know: expected tensors, in "
                    "tuples, lists or dicts, or a class that torch.export.register_dataclass knows"
                ) from error
            raise InputError(f"{name} cannot be followed by torch.export: {first_sentence(error)}{other}") from error
    (batch, *_), constraints = sizes_of_input(found.program), found.program.range_constraints
    free = {str(size) for size, limits in constraints.items() if limits.lower <= 2 and limits.upper > MOST}
    if str(batch) in free:
        return found
    try:
        return followed_twice(model, example, sides)
    except Exception as error:  # the network's own code, for batches that it may not take
        raise InputError(
            f"{name} computes a batch of {len(x)} in another way than others, and would be right for "
            "some only: expected a network that does the same for any batch"
        ) from error


def followed(model: nn.Module, x: Tensor, sides: Any, batch: Any = Dim.AUTO) -> Followed:
    """A network as torch.export follows it; ``sides`` and ``batch`` are what it is told of sizes."""
    with unlogged(), without_inference_mode(), torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch, 2: sides, 3: sides},))
    return Followed(program, functional_graph(program, type(model).__name__), len(x))


def followed_twice(model: nn.Module, example: Tensor, sides: Any) -> Followed:
    """A network that takes the size of a batch as a number, for any batch.

    Raises:
        UnclearError: If it does something else for other batches.
    """
    found, other = (followed(model, images_like(example, batch), sides, None) for batch in BATCHES)
    graph = for_any_batch(found.graph, other.graph)
    with torch.no_grad():
        for batch in SMALL_BATCHES:
            x = images_like(example, batch)
            if not difference(outputs_of(model, x.clone()), outputs_of(graph, x.clone())) <= SAME:
                raise UnclearError(f"it computes {batch} images in another way")
    return replace(found, graph=graph)


def outputs_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All tensors that a network returns, in float64."""
    return [tensor.double() for tensor in tensors_in(model(x))]


def difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest difference of an output, over the largest output of its kind."""
    pairs = zip(before, after, strict=True)
    # Of a NaN on either side, nothing can be said: it counts as a difference.
    return max(float((b - a).abs().nan_to_num(torch.inf).max() / b.abs().max().clamp_min(1e-30)) for b, a in pairs)


def images_like(example: Tensor, batch: int) -> Tensor:
    """So many images like the first of an example, none as any other."""
    shades = torch.linspace(1, 0.5, batch).to(example).view(-1, 1, 1, 1)
    return example.detach()[:1] * shades


def functional_graph(program: ExportedProgram, name: str) -> fx.GraphModule:
    """The program's graph, whose changes in place touch nothing that is read otherwise.

    Where they do, as writing into a slice does, or where a part runs under ``torch.autocast``, PyTorch writes the same
    in operators that change nothing. Changes of the input are left out.

    Raises:
        InputError: If outputs depend on what an earlier call left behind.
    """
    try:
        graph = program.module(check_guards=False)
    except Exception as error:  # PyTorch's, of names that are its own
        raise InputError(f"{name} cannot be followed by torch.export: {first_sentence(error)}") from error
    held = (attrgetter(str(node.target))(graph) for node in graph.graph.nodes if node.op == "get_attr")
    if is_functional(graph.graph) and all(isinstance(value, Tensor) for value in held):
        return graph
    try:
        with unlogged(), torch.no_grad():
            graph = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:  # PyTorch's, of what it cannot write so
        raise InputError(f"{name} cannot be written without changes in place: {first_sentence(error)}") from error
    changes = [node for node in graph.graph.nodes if is_in_place(node)]
    kept = {first(node) for node in changes if first(node).op == "get_attr"}
    for node in changes:
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    for node in kept & set(graph.graph.nodes):
        raise InputError(
            f"{name} changes {node.target} in each call and computes with it: expected a network whose outputs depend "
            "on its input alone"
        )
    return graph


def sizes_of_input(program: ExportedProgram) -> torch.Size:
    """Shape of a program's input, with symbols for the sizes that are free."""
    (name,) = program.graph_signature.user_inputs
    size: torch.Size = next(node for node in program.graph.nodes if node.name == name).meta["val"].shape
    return size


def refuse_size(guards: nn.Module, example: tuple[int, ...], x: Tensor) -> None:
    """Refuse an input for which the network would do something else than for the size that it was deployed for.

    Args:
        guards: torch.export's assertions about its example.
        example: Batch, height and width of that.
        x: The input.
    """
    batch, *size = example
    if list(x.shape[2:]) == size:
        return
    try:
        guards(x[:1].expand(batch, *x.shape[1:]))
    except AssertionError as error:
        wanted, given = ("×".join(map(str, sides)) for sides in (size, x.shape[2:]))
        raise InputError(
            f"the network was deployed for inputs of {wanted} and computes those of {given} in another way: expected "
            f"{wanted}, or to deploy it for {given}"
        ) from error


def fixed_size(check_size: Callable[[Tensor], None] | None, example: Tensor) -> tuple[int | None, int | None]:
    """Height and width that inputs must have; None for one of which others are taken, too."""
    if check_size is None:
        return None, None
    found = []
    for side in (2, 3):
        shape = list(example.shape)
        free = False
        for more in (1, 2, 32, shape[side]):
            larger = [size + more * (place == side) for place, size in enumerate(shape)]
            with suppress(InputError):
                check_size(example.new_empty(larger, device="meta"))
                free = True
        found.append(None if free else shape[side])
    return found[0], found[1]


def named(dtype: torch.dtype) -> str:
    """A data type's name."""
    return str(dtype).removeprefix("torch.")


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
