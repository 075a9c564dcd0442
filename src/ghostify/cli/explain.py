"""`ghostify explain`: where saved multiply-adds became saved time, and where not."""

import dataclasses

import click
import torch

from ghostify.changes.ratio import GhostRatio
from ghostify.cli.opening import NamedNetwork
from ghostify.cli.options import (
    GhostOptions,
    Timing,
    batch_size_option,
    bundle,
    engine_option,
    factory_option,
    ghost_options,
    precision_option,
    shape_option,
    timed_threads_option,
)
from ghostify.cli.output import json_option, percent, print_table, say, show
from ghostify.inference.engines import FILE_ENGINES, Precision
from ghostify.inference.explain import ExplainedLayer, Explanation
from ghostify.inference.explain import explain as explain_network
from ghostify.measure.environment import describe_environment, disturbance
from ghostify.measure.latency import relative_time
from ghostify.needed import refuse_engine
from ghostify.planning import convert

LAYERS_TOLD = 10  # of those with a reason
KERNELS_SHOWN = 0.01  # those with this share of the time


@dataclasses.dataclass(frozen=True)
class Profile:
    """How networks are profiled.

    Args:
        calls: Calls of each.
        precision: Precision of MODEL and of GHOST.
    """

    calls: int
    precision: tuple[Precision, Precision]


@click.command()
@bundle("named", NamedNetwork, click.argument("model"), factory_option, shape_option)
@click.argument("ghost", required=False)
@bundle("options", GhostOptions, ghost_options(GhostRatio.cheap))
@bundle(
    "timing",
    Timing,
    batch_size_option(1, "Images of the batch that is profiled."),
    engine_option(FILE_ENGINES, "openvino"),
    timed_threads_option,
)
@bundle(
    "profile",
    Profile,
    click.option("--calls", type=click.IntRange(1), default=30, help="Calls profiled of each network."),
    precision_option,
)
@json_option
def explain(
    named: NamedNetwork, ghost: str | None, options: GhostOptions, timing: Timing, profile: Profile, as_json: bool
) -> None:
    """Profile MODEL and its GHOST layer by layer, and say where saved work was not saved time.

    GHOST is a network with the same module names, such as a file of `ghostify convert`; left out, the
    ghost that --ratio and --cheap make.
    """
    refuse_engine(timing.engine, *profile.precision)
    torch.manual_seed(0)
    network = named.open()
    shape = named.checked_shape(network)
    if ghost is None:
        other = convert(network, input_shape=shape, **dataclasses.asdict(options)).model
    else:
        other = dataclasses.replace(named, model=ghost).open()
        named.checked_shape(network, other)
    example = torch.randn(timing.batch_size, *shape)
    found = explain_network(
        network.eval(),
        other.eval(),
        example,
        engine=timing.engine,
        threads=timing.threads,
        precision=profile.precision,
        calls=profile.calls,
    )
    environment = describe_environment() | {"threads": timing.threads}
    result = {"model": named.model, "ghost": ghost, "input_shape": shape, **dataclasses.asdict(found)}

    def tables() -> None:
        print_explanation(found, *(found.precisions if ghost == named.model else ("original", "ghost")))
        if disturbance(environment):
            say(disturbance(environment))

    show(result | {"environment": environment}, as_json, tables)


def print_explanation(found: Explanation, before: str = "original", after: str = "ghost") -> None:
    """Print where the time goes in two networks.

    Args:
        before, after: Their names.
    """
    headings = ("layer", f"M MACs,\n{before}", after, f"ms,\n{before}", after, "lost ms")
    total = ExplainedLayer("all", found.macs, found.ms, lost_in_all(found), ())
    print_table(headings, [row(layer) for layer in (*found.layers, total)])
    print()
    print_table(
        ("what takes the time, ms", before, after),
        [(role, f"{ms[0]:.3f}", f"{ms[1]:.3f}") for role, ms in found.roles_ms.items() if any(ms)],
    )
    print()
    shown = [(kind, ms) for kind, ms in found.kinds_ms.items() if max(ms) >= KERNELS_SHOWN * max(found.ms)]
    print_table(
        (f"kernel of {found.engine}, ms", before, after),
        [(kind, f"{ms.before:.3f}", f"{ms.after:.3f}") for kind, ms in shown],
    )
    print()
    say(sentence(found, before, after))
    told = sorted((layer for layer in found.layers if layer.reasons), key=lambda layer: -layer.lost_ms)
    for layer in told[:LAYERS_TOLD]:
        for reason in layer.reasons:
            say(f"  {layer.name or 'the rest'}: {reason}", "    ")
    if len(told) > LAYERS_TOLD:
        say(f"  and {len(told) - LAYERS_TOLD} layers that lose less; --json has all")
    if told:
        say("A plan for a speed changes only layers that then take less: ghostify plan --target-speedup, or run.")


def row(layer: ExplainedLayer) -> tuple[str, ...]:
    macs = [f"{macs / 1e6:.1f}" for macs in layer.macs]
    return (layer.name or "the rest", *macs, *(f"{ms:.3f}" for ms in layer.ms), f"{layer.lost_ms:.3f}")


def lost_in_all(found: Explanation) -> float:
    return found.ms[1] - found.ms[0] * found.macs[1] / max(1, found.macs[0])


def sentence(found: Explanation, before: str = "original", after: str = "ghost") -> str:
    """The whole, in words."""
    if found.precisions == (before, after):
        time = relative_time(found.ms[1] / found.ms[0], before)
        return f"In {found.engine} {after} is {time}, by the time within its operators alone."
    share = percent(found.macs[1] / max(1, found.macs[0]))
    time = relative_time(found.ms[1] / found.ms[0], "the original")
    text = f"In {found.engine} the ghost is {time}, with {share} % of its multiply-adds."
    lossy = any(layer.reasons for layer in found.layers)
    return text + (" Layers whose lost time has a known reason, the most lost first:" if lossy else "")
