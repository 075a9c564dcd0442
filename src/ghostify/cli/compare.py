"""`ghostify compare`: the latency of two networks, side by side."""

import dataclasses
from pathlib import Path

import click
import torch

from ghostify.cli.opening import NamedNetworkOrFile
from ghostify.cli.options import (
    Timing,
    batch_size_option,
    bundle,
    device_option,
    engine_option,
    factory_option,
    precision_option,
    shape_option,
    timed_threads_option,
)
from ghostify.cli.output import json_option, print_table, say, show
from ghostify.cli.spelling import BY_USER
from ghostify.inference.compare import compare as compare_networks
from ghostify.inference.deploy import deploy
from ghostify.inference.engines import ENGINES, FILE_ENGINES, Precision
from ghostify.inference.file_network import READERS, FileNetwork, is_exported
from ghostify.measure.environment import describe_environment, disturbance
from ghostify.measure.latency import Comparison
from ghostify.needed import refuse_engine


@dataclasses.dataclass(frozen=True)
class Form:
    """The form in which both networks are compared.

    Args:
        deployed: Both are deployed first; None: where the engine runs files or compiles.
        precision: The precision of both, or that of each.
    """

    deployed: bool | None
    precision: tuple[Precision, Precision]


@click.command()
@bundle("first", NamedNetworkOrFile, click.argument("model", metavar="A"), factory_option, shape_option)
@click.argument("b")
@bundle(
    "timing",
    Timing,
    batch_size_option(1, "Images of the batch that is timed."),
    engine_option(ENGINES, None, "eager, or that of a file"),
    timed_threads_option,
)
@bundle(
    "form",
    Form,
    click.option(
        "--deploy/--as-is",
        "deployed",
        default=None,
        show_default="deployed, but in eager PyTorch as they are",
        help="Deploy both networks first, or time them as they are.",
    ),
    precision_option,
)
@click.option("--blocks", type=click.IntRange(6), default=30, help="Blocks of calls timed of each network.")
@device_option
@json_option
def compare(
    first: NamedNetworkOrFile, b: str, timing: Timing, form: Form, blocks: int, device: str, as_json: bool
) -> None:
    """Measure the latency of B over that of A: networks, or files of `ghostify export`.

    ENGINE is eager PyTorch, torch.compile, ONNX Runtime or OpenVINO; of files, the one that they were made for.
    """
    engine = engine_for(timing.engine, first, b)
    if engine in FILE_ENGINES and click.get_current_context().get_parameter_source("device") not in BY_USER:
        device = "cpu"  # which OpenVINO and the usual ONNX Runtime are for
    refuse_engine(engine, *form.precision)
    first, second = (side(first, model, engine) for model in (first.model, b))
    network_a, network_b = (named.open().to(device) for named in (first, second))
    sized = second if first.designed_shape is None else first
    input_shape = sized.checked_shape(network_a, network_b)
    example = torch.zeros(timing.batch_size, *input_shape, device=device)
    deployed = engine != "eager" if form.deployed is None else form.deployed
    if deployed:
        network_a, network_b = (
            network if isinstance(network, FileNetwork) else deploy(network, example, engine=engine)
            for network in (network_a, network_b)
        )
    found = compare_networks(
        network_a,
        network_b,
        example,
        engine=engine,
        threads=timing.threads,
        precision=form.precision,
        blocks=blocks,
    )
    environment = describe_environment(device) | {"threads": timing.threads}
    result = {
        "a": first.model,
        "b": b,
        "input_shape": input_shape,
        "batch_size": timing.batch_size,
        "deployed": deployed,
        **dataclasses.asdict(found),
        "different": found.different,
        "environment": environment,
    }

    def tables() -> None:
        print_comparison(first.model, b, found)
        if disturbance(environment):
            say(disturbance(environment))

    show(result, as_json, tables)


def side(named: NamedNetworkOrFile, model: str, engine: str) -> NamedNetworkOrFile:
    """One side, with the options that are for it: a file is run by the engine, and built by nobody."""
    exported = is_exported(model)
    return dataclasses.replace(
        named, model=model, engine=engine if exported else None, factory=None if exported else named.factory
    )


def engine_for(engine: str | None, first: NamedNetworkOrFile, b: str) -> str:
    """The engine that was asked for, else that of a file, else PyTorch as it is."""
    if engine is not None:
        return engine
    files = [Path(model) for model in (first.model, b) if is_exported(model)]
    # What reads all of them: ONNX Runtime reads no .xml.
    return next(
        (READERS[file.suffix][0] for file in sorted(files, key=lambda file: len(READERS[file.suffix]))), "eager"
    )


def print_comparison(a: str, b: str, found: Comparison) -> None:
    if a == b:
        a, b = (f"{name}, {precision}" for name, precision in zip((a, b), found.precisions, strict=True))
    sides = ((a, found.a_ms, found.a_ms_quartiles), (b, found.b_ms, found.b_ms_quartiles))
    cold = found.first_ms or (None, None)
    rows = [
        (name, f"{ms:.3f}", f"{low:.3f}–{high:.3f}", "–" if first is None else f"{first:.3f}")
        for (name, ms, (low, high)), first in zip(sides, cold, strict=True)
    ]
    print_table(("network", "median, ms", "quartiles, ms", "first call, ms"), rows)
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    say(f"In {found.engine} with {threads}: {found.verdict(a, b)}")
