"""`ghostify compare`: the latency of two networks, side by side."""

import dataclasses

import click
import torch

from ghostify.cli.opening import checked_shape, open_given
from ghostify.cli.options import SAID, device_option, factory_option, json_option, shape_option
from ghostify.cli.output import print_table, show
from ghostify.inference.compare import compare as compare_networks
from ghostify.inference.deploy import deploy
from ghostify.inference.engines import ENGINES, FILE_ENGINES
from ghostify.measure.environment import describe_environment, disturbance


@click.command()
@click.argument("a")
@click.argument("b")
@factory_option
@shape_option
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--engine", type=click.Choice(ENGINES), default="eager", show_default=True)
@click.option(
    "--deploy/--as-is",
    "deployed",
    default=None,
    help="Whether to deploy both first; default: yes, but for eager.",
)
@click.option("--bf16", is_flag=True, help="Compute in bf16, where the engine can.")
@click.option("--blocks", type=click.IntRange(6), default=30, show_default=True, help="Blocks timed of each network.")
@device_option
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@json_option
def compare(
    a: str,
    b: str,
    factory: str | None,
    input_shape: tuple[int, ...] | None,
    batch_size: int,
    engine: str,
    deployed: bool | None,
    bf16: bool,
    blocks: int,
    device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Measure the latency of network B over that of network A.

    ENGINE is eager PyTorch, torch.compile, ONNX Runtime or OpenVINO.
    """
    if engine in FILE_ENGINES and click.get_current_context().get_parameter_source("device") not in SAID:
        device = "cpu"  # which OpenVINO and the usual ONNX Runtime are for
    first, second = (open_given(name, {"factory": factory}).to(device) for name in (a, b))
    input_shape = checked_shape(input_shape, a, first, second)
    example = torch.zeros(batch_size, *input_shape, device=device)
    if deployed is None:
        deployed = engine != "eager"
    if deployed:
        first, second = (deploy(network, example, engine=engine) for network in (first, second))
    if bf16:
        example = example.bfloat16()
    found = compare_networks(first, second, example, engine=engine, threads=threads, blocks=blocks)
    environment = describe_environment(device) | {"threads": threads}
    result = {
        "a": a,
        "b": b,
        "input_shape": input_shape,
        "batch_size": batch_size,
        "deployed": deployed,
        **dataclasses.asdict(found),
        "different": found.different,
        "environment": environment,
    }

    def tables() -> None:
        sides = ((a, found.a_ms, found.a_ms_quartiles), (b, found.b_ms, found.b_ms_quartiles))
        cold = found.first_ms or (None, None)
        rows = [
            (name, f"{ms:.3f}", f"{low:.3f}–{high:.3f}", "–" if first is None else f"{first:.3f}")
            for (name, ms, (low, high)), first in zip(sides, cold, strict=True)
        ]
        print_table(("network", "median, ms", "quartiles, ms", "first call, ms"), rows)
        print(found.verdict(a, b))
        if disturbance(environment):
            print(disturbance(environment))

    show(result, as_json, tables)
