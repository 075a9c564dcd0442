"""Latency and peak memory of networks and their ghosts, side by side in each engine, as CSV.

    python benchmarks/latency.py --engines onnxruntime openvino --threads 1 2 --out benchmarks/results/latency.csv

Each row: one pair in one engine at 224 px. Networks are deployed, but for those "as it is". Rows that are there
already are not made again, and a network is written for the file engines once. Run it with nothing else running.

Ratios b / a in a row: of medians of interleaved blocks, with its 95 % interval; of the least times of a call; and with
`--undisturbed` of calls in which each operator takes the least time that it ever took. Where a machine is shared with
others only the last two tell of the networks.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from rows import read_rows, write_rows
from torch import Tensor, nn

from ghostify import count, create_model, deploy, plan
from ghostify.inference.compare import TorchRunner
from ghostify.inference.engines import ENGINES, FILE_ENGINES, FileRunner, undisturbed_ms
from ghostify.inference.export import write_onnx
from ghostify.inference.in_turn import Runner, interleaved
from ghostify.measure.environment import describe_environment
from ghostify.transform.untrained import untrained

SHAPE = (3, 224, 224)
AS_IT_IS, PLANNED = " as it is", "planned "
PAIRS = (
    ("vgg16_bn", "ghost_vgg16_bn"),
    ("resnet50", "ghost_resnet50"),
    ("resnet50", "planned resnet50"),
    ("mobilenet_v3_large", "ghostnet_100"),
    ("mobilenet_v3_large", "ghost_mobilenet_v3_large"),
    ("timm:ghostnet_100 as it is", "ghostnet_100"),
    ("ghostnet_100 as it is", "ghostnet_100"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, nargs="+", default=range(len(PAIRS)), help="of the list, from 0")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(FILE_ENGINES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true", help="in PyTorch")
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--block-ms", type=float, default=60)
    parser.add_argument("--undisturbed", action="store_true", help="profile the operators, too")
    parser.add_argument("--files", type=Path, default=Path(gettempdir()) / "ghostify-latency", help="for ONNX files")
    arguments = parser.parse_args()

    rows = read_rows(arguments.out)
    keys = ("a", "b", "engine", "threads", "batch", "dtype", "device", "layout")
    done = {tuple(str(row[key]) for key in keys) for row in rows}
    layout = "channels last" if arguments.channels_last else ""
    for pair, engine, threads, batch, dtype in itertools.product(
        arguments.pairs, arguments.engines, arguments.threads, arguments.batch_sizes, arguments.dtypes
    ):
        a, b = PAIRS[pair]
        setting = dict(zip(keys, (a, b, engine, threads, batch, dtype, arguments.device, layout), strict=True))
        if tuple(map(str, setting.values())) in done or (engine == "onnxruntime" and dtype == "bfloat16"):
            continue
        example = torch.randn(batch, *SHAPE, device=arguments.device, dtype=getattr(torch, dtype))
        if layout:
            example = example.contiguous(memory_format=torch.channels_last)
        torch.set_num_threads(threads)
        rows.append(
            setting
            | {"macs_ratio": f"{macs(b) / macs(a):.4f}"}
            | measured(a, b, example, engine, threads, arguments)
            | describe_environment(arguments.device)
            | {"engine_version": version(engine if engine in FILE_ENGINES else "torch")}
            | {"command": "python " + shlex.join(sys.argv)}
        )
        row = rows[-1]
        print(*setting.values(), *(row[key] for key in row if key.startswith(("ratio", "least", "und"))), flush=True)
        write_rows(arguments.out, rows)


def measured(a: str, b: str, example: Tensor, engine: str, threads: int, arguments: Any) -> dict[str, Any]:
    """Times and memory of a pair."""
    torch.compiler.reset()  # of too many networks it would leave the last ones as they are
    with ExitStack() as stack:
        runners = [stack.enter_context(opened(n, example, engine, threads, arguments.files)) for n in (a, b)]
        with torch.inference_mode():
            found = asdict(interleaved(*runners, blocks=arguments.blocks, block_ms=arguments.block_ms))
        memory = [runner.peak_memory_mb() if isinstance(runner, FileRunner) else None for runner in runners]
    operators: list[float] = []
    if engine in FILE_ENGINES and arguments.undisturbed:
        for name in (a, b):
            with opened(name, example, engine, threads, arguments.files, profile=True) as runner:
                assert isinstance(runner, FileRunner)
                operators.append(undisturbed_ms(runner.operators(max(3, arguments.blocks))))
    least = found["least_ms"]
    return {
        **{key: f"{found[key]:.4g}" for key in ("ratio", "ratio_low", "ratio_high", "a_ms", "b_ms")},
        **{key: "–".join(f"{x:.4g}" for x in found[key]) for key in ("a_ms_quartiles", "b_ms_quartiles")},
        "least_ratio": f"{least[1] / least[0]:.4f}",
        **columns("least_ms", least),
        "undisturbed_ratio": f"{operators[1] / operators[0]:.4f}" if operators else "",
        **columns("undisturbed_ms", operators or (None, None)),
        **columns("first_ms", found["first_ms"]),
        **columns("peak_memory_mb", memory),
        "blocks": found["blocks"],
        "calls_per_block": "–".join(map(str, found["calls_per_block"])),
    }


def columns(name: str, values: Any) -> dict[str, str]:
    """A figure of a and of b; empty where it is not known."""
    return {f"{side}_{name}": "" if value is None else f"{value:.4g}" for side, value in zip("ab", values, strict=True)}


@contextmanager
def opened(
    name: str, example: Tensor, engine: str, threads: int, files: Path, *, profile: bool = False
) -> Iterator[Runner]:
    """A network, ready to be timed."""
    if engine not in FILE_ENGINES:
        model = network(name, engine).to(example.device, example.dtype)
        if example.is_contiguous(memory_format=torch.channels_last):
            model = model.to(memory_format=torch.channels_last)
        yield TorchRunner(model, example, compiled=engine == "compile", threads=threads)
        return
    file = files / engine / f"{name.replace(':', '_').replace(' ', '_')}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        tuned = "" if name.endswith(AS_IT_IS) else engine
        write_onnx(network(name, engine), file, torch.randn(1, *SHAPE), engine=tuned)
    bf16 = example.dtype == torch.bfloat16
    with FileRunner(
        file, engine, example, device=example.device.type, threads=threads, bf16=bf16, profile=profile
    ) as runner:
        yield runner


def network(name: str, engine: str) -> nn.Module:
    """As it is timed, in float32 on the CPU."""
    model = undeployed(name).eval()
    return model if name.endswith(AS_IT_IS) else deploy(model, torch.randn(1, *SHAPE), engine=engine)


def undeployed(name: str) -> nn.Module:
    """Of random weights, of which times do not depend."""
    torch.manual_seed(0)
    model = create_model(name.removeprefix(PLANNED).removesuffix(AS_IT_IS))
    if name.startswith(PLANNED):  # half of the multiply-adds; channels in sixteens, as engines compute fewer as slowly
        noise = torch.randn(32, 3, 64, 64)
        found = plan(model.eval(), example=torch.zeros(1, *SHAPE), calibration=[noise], target_macs=0.5, round_to=16)
        model = untrained(model, found, noise[:1])
    return model


@cache
def macs(name: str) -> int:
    return count(undeployed(name), SHAPE).macs


if __name__ == "__main__":
    main()
