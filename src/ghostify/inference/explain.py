"""Time against multiply-adds of a network and its ghost, layer by layer."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, spelled
from ghostify.inference.deploy import Deployed, deploy
from ghostify.inference.engine_file import WRITTEN, engine_file
from ghostify.inference.engines import FILE_ENGINES, FileRunner, Operator, Precision, precisions_of, undisturbed_ms
from ghostify.inference.rewrite import AFFINE
from ghostify.measure.count import LayerCount, count
from ghostify.wrappers import unwrapped

Role = Literal[
    "layouts",
    "dense convolutions",
    "depthwise filters",
    "joins",
    "quantisers",
    "sums, gates and activations",
    "pooling and the rest",
]
DENSE: Final = "dense convolutions"
DEPTHWISE: Final = "depthwise filters"
# The roles of operators, and words in an engine's name for them; the first that fits.
ROLES: dict[Role, tuple[str, ...]] = {
    "layouts": ("reorder", "transpose", "convert"),
    DENSE: ("conv", "gemm", "matmul", "fullyconnected", "innerproduct"),
    DEPTHWISE: (),  # by their layer
    "joins": ("concat", "split", "slice", "gather"),
    "quantisers": ("quantizelinear", "fakequantize"),
    "sums, gates and activations": tuple("add sub mul relu elt sigmoid swish clip math gelu upsample".split()),
    "pooling and the rest": ("",),
}
# Reasons are given where a layer lost more than this share of the time that it took before.
WORTH_TELLING = 0.1
# Waking an engine's threads and starting an operator takes some microseconds, whatever there is to do.
START_MS = 0.02
LANES = {"AVX512": 16, "AVX2": 8}  # float32 numbers in a vector


Number = TypeVar("Number", int, float)


class BeforeAfter(NamedTuple, Generic[Number]):
    """A figure of the original network, and the same figure of its ghost."""

    before: Number
    after: Number


@dataclass(frozen=True)
class ExplainedLayer:
    """A layer of the original and what stands there in the ghost.

    Args:
        name: Module name in the original; "" is what belongs to none.
        macs: Multiply-adds for one input.
        ms: Milliseconds for the batch, activations and sums behind the layer included.
        lost_ms: Milliseconds by which the ghost is slower than its multiply-adds promise.
        reasons: The causes of a loss that is worth telling.
    """

    name: str
    macs: BeforeAfter[int]
    ms: BeforeAfter[float]
    lost_ms: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Time and multiply-adds of a network and its ghost, by an engine's own profile.

    Args:
        layers: The layers in the original's order.
        roles_ms: Milliseconds by the role of operators.
        kinds_ms: The same by the engine's own names for operators and kernels, the longest first.
        macs: Multiply-adds of the whole network for one input.
        ms: Milliseconds of the whole network for the batch; each operator with the least time that it took.
        engine: Name of the engine.
        threads: CPU threads.
        precisions: Precision of each network.
    """

    layers: tuple[ExplainedLayer, ...]
    roles_ms: dict[Role, BeforeAfter[float]]
    kinds_ms: dict[str, BeforeAfter[float]]
    macs: BeforeAfter[int]
    ms: BeforeAfter[float]
    engine: str
    threads: int
    precisions: tuple[Precision, Precision]


@dataclass(frozen=True)
class Step:
    """An operator as a step of its layer.

    Args:
        operator: The operator and its times.
        role: Its role.
        module: The layer's module; None where it belongs to none.
        counted: That module's multiply-adds; None likewise.
    """

    operator: Operator
    role: Role
    module: nn.Module | None
    counted: LayerCount | None

    @property
    def ms(self) -> float:
        return undisturbed_ms([self.operator])


@dataclass(frozen=True)
class ProfileConditions:
    """How a network is profiled.

    Args:
        engine: "onnxruntime" or "openvino".
        threads: CPU threads.
        precision: "fp32", "bf16", or "int8" with ranges taken from the example.
        calls: Number of calls.
    """

    engine: str = "openvino"
    threads: int = 1
    precision: Precision = "fp32"
    calls: int = 10


def explain(
    original: nn.Module,
    ghost: nn.Module,
    example: Tensor,
    *,
    engine: str = "openvino",
    threads: int = 1,
    precision: Precision | tuple[Precision, Precision] = "fp32",
    calls: int = 30,
) -> Explanation:
    """Profile a network and its ghost, both deployed, and hold time against multiply-adds, layer by layer.

    Args:
        original: A network.
        ghost: A ghost made of it, whose modules lie where the original's do.
        example: One batch ``[batch, channels, height, width]`` on the CPU.
        engine: "onnxruntime" or "openvino".
        threads: CPU threads.
        precision: "fp32", "bf16" or "int8", of both or of each one.
        calls: Number of calls of each network to profile.
    Raises:
        InputError: If the engine is another, or one of the networks cannot run in it.
    """
    if engine not in FILE_ENGINES:
        raise InputError(
            f"{spelled('engine')} is {engine!r}: expected one of {', '.join(FILE_ENGINES)}, which profile operators"
        )
    if calls < 1:
        raise InputError(f"{spelled('calls')} is {calls}: expected at least 1")
    precisions = precisions_of(precision, engine, example)
    before, after = (
        profiled(unwrapped(model), example, ProfileConditions(engine, threads, own, calls))
        for model, own in zip((original, ghost), precisions, strict=True)
    )
    names = [name for name in before if name]
    groups = grouped(after, before)
    rows = [*names, *(name for name in groups if name and name not in before)]
    if "" in before or "" in groups:
        rows.append("")
    found = [explained(name, before.get(name, []), groups.get(name, [])) for name in rows]
    layers = tuple(layer for layer in found if any(layer.macs) or any(layer.ms))
    return Explanation(
        layers,
        {role: BeforeAfter(sum_ms(flat(before), role), sum_ms(flat(after), role)) for role in ROLES},
        by_kind(flat(before), flat(after)),
        BeforeAfter(sum(layer.macs.before for layer in layers), sum(layer.macs.after for layer in layers)),
        BeforeAfter(sum_ms(flat(before)), sum_ms(flat(after))),
        engine,
        threads,
        precisions,
    )


def by_kind(before: Sequence[Step], after: Sequence[Step]) -> dict[str, BeforeAfter[float]]:
    """Milliseconds by the engine's names for operators and kernels, the longest first."""
    kinds = dict.fromkeys(step.operator.kind for step in (*before, *after))
    found = {
        kind: BeforeAfter(
            *(sum_ms([step for step in steps if step.operator.kind == kind]) for steps in (before, after))
        )
        for kind in kinds
    }
    return dict(sorted(found.items(), key=lambda item: -max(item[1])))


def layer_ms(
    model: nn.Module, example: Tensor, conditions: ProfileConditions, *, homes: Collection[str]
) -> dict[str, float]:
    """Milliseconds of a batch in each of some layers, activations and sums behind them included.

    Args:
        model: A network, deployed or to be deployed.
        homes: Module names of the layers as they were before the network was deployed or became a ghost; all else is
            under "".
    """
    found = grouped(profiled(model, example, conditions), homes, elsewhere="")
    return dict.fromkeys((*homes, ""), 0.0) | {name: sum_ms(steps) for name, steps in found.items()}


def grouped(
    layers: dict[str, list[Step]], homes: Collection[str], elsewhere: str | None = None
) -> dict[str, list[Step]]:
    """Steps by home: the layer that their own layer is, is inside of, or is a part of.

    Args:
        layers: Steps by their own layer.
        homes: Names of the layers to group by.
        elsewhere: Name for the steps of all other layers; None keeps those under their own names.
    """
    groups: dict[str, list[Step]] = {}
    for name, steps in layers.items():
        home = next((n for n in around(name) if n in homes), name if elsewhere is None else elsewhere)
        groups.setdefault(home, []).extend(steps)
    return groups


def profiled(model: nn.Module, example: Tensor, conditions: ProfileConditions) -> dict[str, list[Step]]:
    """The steps that an engine executed, by layer."""
    deployed = model if isinstance(model, Deployed) else deploy(model, example)
    counted = {row.name: row for row in count(deployed, tuple(example.shape[1:])).layers}
    engine, precision = conditions.engine, conditions.precision
    with TemporaryDirectory() as folder:
        file = engine_file(deployed, Path(folder), example, engine=engine, precision=precision)
        bf16 = precision == "bf16"
        with FileRunner(file, engine, example, threads=conditions.threads, bf16=bf16, profile=True) as runner:
            runner.times_ms(3)  # what is planned or allocated in the first calls
            operators = runner.operators(conditions.calls)
        # OpenVINO calls what makes the file's output after that.
        graph = import_module("onnx").load(str(Path(folder) / WRITTEN), load_external_data=False).graph
        makers = {value: node.name for node in graph.node for value in node.output}
    modules = dict(deployed.named_modules())
    layers: dict[str, list[Step]] = {
        name.removeprefix("network."): [] for name, module in modules.items() if isinstance(module, nn.Conv2d)
    }
    for operator in operators:
        # `write_onnx` names what computes a layer, and what follows it, "layer/operator".
        found = re.search(r"([\w.]+)/", makers.get(operator.name, operator.name))
        name = found.group(1) if found and found.group(1) in modules else ""
        module = modules[name] if name else None
        step = Step(operator, role_of(operator, module), module, counted.get(name))
        layers.setdefault(name.removeprefix("network."), []).append(step)
    return layers


def role_of(operator: Operator, module: nn.Module | None) -> Role:
    """The role of an operator, by the engine's name for it and by its layer's module."""
    kind = operator.kind.lower()
    if kind.startswith("subgraph") and "/fq_" in operator.name:  # as OpenVINO calls what NNCF put in
        return "quantisers"
    role = next(role for role, words in ROLES.items() if any(word in kind for word in words))
    if role == DENSE and isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
        return DEPTHWISE
    return role


def explained(name: str, before: list[Step], after: list[Step]) -> ExplainedLayer:
    macs = BeforeAfter(macs_of(before), macs_of(after))
    ms = BeforeAfter(sum_ms(before), sum_ms(after))
    lost = ms.after - (ms.before * macs.after / macs.before if macs.before else ms.before)
    reasons: tuple[str, ...] = ()
    if name.endswith(AFFINE) and not before:
        reasons = (f"takes {ms.after:.3f} ms: a BatchNorm that cannot be folded, as ghosts read the maps before it",)
    elif macs.after < macs.before and lost > WORTH_TELLING * ms.before:
        reasons = tuple(reasons_for(before, after, lost))
    return ExplainedLayer(name, macs, ms, lost, reasons)


def reasons_for(before: list[Step], after: list[Step], lost: float) -> Iterable[str]:
    """Sentences on the operators that took the time that the multiply-adds do not account for."""
    for role in ROLES:
        steps = [step for step in after if step.role == role]
        taken = sum_ms(steps)
        if role == DENSE:
            more = taken - sum_ms(before, DENSE) * macs_of(steps) / max(1, macs_of(before))
            if more > lost / 5:
                yield f"dense convolutions take {more:.3f} ms more than at the original's speed" + slow_because(steps)
        elif taken - sum_ms(before, role) > lost / 5:
            yield f"{role} take {taken:.3f} ms" + (traffic(steps) if role == DEPTHWISE else "")


def slow_because(steps: list[Step]) -> str:
    """The causes known to slow convolutions down that these have, as the end of a sentence."""
    causes = []
    lanes = LANES.get(torch.backends.cpu.get_cpu_capability(), 4)
    for step in steps:
        if isinstance(step.module, nn.Conv2d):
            maps = step.module.out_channels
            if maps % lanes and maps < 8 * lanes:
                causes.append(f"{maps} maps fill vectors of {lanes} to {maps / lanes / -(-maps // lanes):.0%}")
            if step.module.in_channels < 2 * lanes:
                causes.append(f"{step.module.in_channels} input maps are few to sum over")
    short = [step for step in steps if step.ms < START_MS]
    if short:
        causes.append(f"{len(short)} of {len(steps)} end within {1000 * START_MS:.0f} µs, hardly more than their start")
    if len(steps) > 1:
        causes.append(f"there are {len(steps)}, each of which reads or writes the maps")
    return ": " + "; ".join(dict.fromkeys(causes)) if causes else ""


def traffic(steps: list[Step]) -> str:
    """The speed at which depthwise filters compute and move their maps, as the end of a sentence."""
    shapes = [step.counted.output_shape for step in steps if step.counted is not None]
    # Read once and written once, in float32, at least; exact where the stride is 1.
    moved = sum(2 * 4 * torch.Size(shape).numel() for shape in shapes if shape)
    ms = sum_ms(steps)
    return f" for {macs_of(steps) / 1e6:.1f} M multiply-adds, {moved / ms / 1e6:.0f} GB/s" if ms else ""


def around(name: str) -> Iterable[str]:
    """A module's name and those of the modules around it, the nearest first.

    ``deploy`` calls the parts of a layer ``layer``, ``layer_1``, ``layer_2``.
    """
    while name:
        yield name
        yield re.sub(r"_\d+$", "", name)
        name = name.rpartition(".")[0]


def flat(layers: dict[str, list[Step]]) -> list[Step]:
    return [step for steps in layers.values() for step in steps]


def macs_of(steps: list[Step]) -> int:
    """Multiply-adds of the modules that are run, each once: an engine may cut one into several operators."""
    return sum({id(step.counted): step.counted.macs for step in steps if step.counted is not None}.values())


def sum_ms(steps: list[Step], role: Role | None = None) -> float:
    return sum(step.ms for step in steps if role in (None, step.role))
