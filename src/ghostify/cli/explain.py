"""`ghostify explain`: where saved multiply-adds became saved time, and where not."""

import dataclasses
from typing import Any

import click
import torch

from ghostify.cli.opening import checked_shape, open_given
from ghostify.cli.options import cheap_option, factory_option, ghost_options, json_option, shape_option
from ghostify.cli.output import print_table, show
from ghostify.inference.engines import FILE_ENGINES
from ghostify.inference.explain import ExplainedLayer, Explanation
from ghostify.inference.explain import explain as explain_network
from ghostify.measure.environment import describe_environment, disturbance
from ghostify.planning import convert


@click.command()
@click.argument("model")
@click.argument("ghost", required=False)
@ghost_options(2, 3)
@cheap_option("depthwise")
@factory_option
@shape_option
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--engine", type=click.Choice(FILE_ENGINES), default="openvino", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--calls", type=click.IntRange(1), default=30, show_default=True, help="Profiled of each network.")
@json_option
def explain(
    model: str,
    ghost: str | None,
    factory: str | None,
    ratio: int,
    cheap_kernel_size: int,
    cheap: Any,
    input_shape: tuple[int, ...] | None,
    batch_size: int,
    engine: str,
    threads: int,
    calls: int,
    as_json: bool,
) -> None:
    """Profile MODEL and its GHOST layer by layer, and say where saved work was not saved time.

    GHOST is a network with the same module names, such as a file of `ghostify convert`; left out, the
    ghost that --ratio and --cheap give.
    """
    torch.manual_seed(0)
    network = open_given(model, {"factory": factory})
    shape = checked_shape(input_shape, model, network)
    if ghost is None:
        options = {"ratio": ratio, "cheap_kernel_size": cheap_kernel_size, "cheap": cheap}
        other = convert(network, input_shape=shape, **options).model
    else:
        other = open_given(ghost, {"factory": factory})
        checked_shape(shape, model, other)
    example = torch.randn(batch_size, *shape)
    found = explain_network(network.eval(), other.eval(), example, engine=engine, threads=threads, calls=calls)
    environment = describe_environment() | {"threads": threads}
    result = {"model": model, "ghost": ghost, "input_shape": shape, **dataclasses.asdict(found)}

    def tables() -> None:
        headings = ("layer", "M MACs", "of ghost", "ms", "of ghost", "lost ms")
        total = ExplainedLayer("all", found.macs, found.ms, lost_in_all(found), ())
        print_table(headings, [row(layer) for layer in (*found.layers, total)])
        print()
        print_table(
            ("what takes the time, ms", "original", "ghost"),
            [(role, f"{ms[0]:.2f}", f"{ms[1]:.2f}") for role, ms in found.roles_ms.items() if any(ms)],
        )
        print()
        print(sentence(found))
        for layer in sorted(found.layers, key=lambda layer: -layer.lost_ms):
            for reason in layer.reasons:
                print(f"  {layer.name or 'the rest'}: {reason}")
        if disturbance(environment):
            print(disturbance(environment))

    show(result | {"environment": environment}, as_json, tables)


def row(layer: ExplainedLayer) -> tuple[str, ...]:
    macs = [f"{macs / 1e6:.1f}" for macs in layer.macs]
    return (layer.name or "the rest", *macs, *(f"{ms:.3f}" for ms in layer.ms), f"{layer.lost_ms:.3f}")


def lost_in_all(found: Explanation) -> float:
    return found.ms[1] - found.ms[0] * found.macs[1] / max(1, found.macs[0])


def sentence(found: Explanation) -> str:
    """The whole, in words."""
    share, time = found.macs[1] / max(1, found.macs[0]), found.ms[1] / found.ms[0]
    text = f"In {found.engine} the ghost takes {time:.3f} of the time for {share:.3f} of the multiply-adds."
    lossy = any(layer.reasons for layer in found.layers)
    return text + (" Where saved work was not saved time, the worst first:" if lossy else "")
