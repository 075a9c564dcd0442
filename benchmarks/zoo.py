"""The plans of the zoo, and what each gives: its file of the package, and rows of CSV.

    python benchmarks/zoo.py resnet56 --weights resnet56.th --data npz:cifar10.npz --made DIR \\
        --out benchmarks/results/zoo.csv
    python benchmarks/zoo.py torchvision:mobilenet_v2 --weights FILE --photographs imagenet_sample/val --made DIR …
    python benchmarks/zoo.py flowers/network.safetensors --plans mobilenet_v2 --data imagefolder:flowers …

For each speed: a plan for OpenVINO in float32 with one thread, the network converted by it without labels, scored and
timed as a file in float32 and in int8, over the original in float32. Of --data the test images judge; of --photographs,
a folder per class, one half is for planning and the other half judges. The original's own rows have speed 1. With
--plans another network's plans are followed by one that somebody trained further, a file. What was measured is kept in
--made; rows that are there already are not made again.
"""

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from agree import batches, first_answers, photographs_in
from precisions import RATIO, columns_of, in_openvino, measured_ratio
from rows import read_rows, write_rows
from torch import Tensor, nn

from ghostify import convert, count, create_model, deploy, load, plan
from ghostify.allocator import keep_freed_memory
from ghostify.data.images import count_images
from ghostify.data.sample import draw, draw_inputs
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.planning.plan_file import read_plan, write_plan
from ghostify.planning.zoo import FOLDER
from ghostify.verbs.run import data_of_run

PRECISIONS = ("fp32", "int8")
AT_ONCE = 50  # images that are judged


@dataclass(frozen=True)
class Images:
    """Inputs of a network: those to plan with, and those that judge with their labels."""

    calibration: list[Tensor]
    judged: list[Tensor]
    labels: Tensor


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--plans", help="the network in the names of plans, where that is another one")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data")
    where.add_argument("--photographs", type=Path)
    parser.add_argument("--image-size", type=int, help="of --data")
    parser.add_argument("--mean", type=float, default=0.5, help="of photographs")
    parser.add_argument("--std", type=float, default=0.5, help="of photographs")
    parser.add_argument("--speeds", type=float, nargs="+", default=[1.5, 2.0])
    parser.add_argument("--images", type=int, default=500, help="to plan and calibrate with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--made", type=Path, required=True, help="folder that keeps what was measured")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    if arguments.weights is None:
        original = load(arguments.network).eval()
    else:
        original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    images = from_photographs(arguments) if arguments.photographs else from_data(original, arguments)
    name, example = arguments.plans or arguments.network.rpartition(":")[2], images.calibration[0][:1]
    arguments.made.mkdir(parents=True, exist_ok=True)
    rows = read_rows(arguments.out)
    done = {(row["network"], row["speed"], row["precision"]) for row in rows}
    with in_openvino(original, "fp32", images.calibration) as network:
        answers = first_answers(network, images.judged)
    before = deploy(original, example, engine="openvino")
    for speed in (1.0, *arguments.speeds):
        if all((arguments.network, f"{speed:g}", precision) in done for precision in PRECISIONS):
            continue
        file = "" if speed == 1 else f"{name}-{speed:g}x"
        model = original if speed == 1 else by_plan(original, images, speed, FOLDER / f"{file}.json", arguments)
        after = deploy(model, example, engine="openvino")
        for precision in PRECISIONS:
            with in_openvino(model, precision, images.calibration) as network:
                given = first_answers(network, images.judged)
            told = measured_ratio(before, after, example, precision, threads=1, comparisons=3)
            ratio, low, high = (float(told[column]) for column in columns_of(precision, RATIO))
            rows.append(
                {
                    "network": arguments.network,
                    "plan": file,
                    "speed": f"{speed:g}",
                    "precision": precision,
                    "top1": f"{(given == images.labels).float().mean():.4f}",
                    "agreement": f"{(given == answers).float().mean():.4f}",
                    "speedup": f"{1 / ratio:.2f}",
                    "speedup_low": f"{1 / high:.2f}",
                    "speedup_high": f"{1 / low:.2f}",
                    "macs": f"{count(model, example.shape[1:]).macs / count(original, example.shape[1:]).macs:.4f}",
                    "planned_with": sum(map(len, images.calibration)),
                    "judged_on": len(images.labels),
                    **describe_environment(),
                    "command": "python " + shlex.join(sys.argv),
                }
            )
            print(f"{name} at {speed:g}, {precision}: {rows[-1]['top1']}, {rows[-1]['speedup']}", file=sys.stderr)
        write_rows(arguments.out, rows)


def by_plan(original: nn.Module, images: Images, speed: float, file: Path, arguments: argparse.Namespace) -> nn.Module:
    """The network by a plan of the zoo, which is made where it is not there."""
    if not file.exists():
        found = plan(
            original,
            example=images.calibration[0][:1],
            calibration=images.calibration,
            target_speedup=speed,
            measurements=arguments.made / f"{file.stem.rpartition('-')[0]}.jsonl",
            seed=arguments.seed,
        )
        write_plan(found, file)
    return convert(original, calibration=images.calibration, plan=read_plan(file), seed=arguments.seed).model


def from_data(original: nn.Module, arguments: argparse.Namespace) -> Images:
    data = data_of_run(original, arguments.data, arguments.image_size, None, None).images
    pairs = list(draw(data.test, data, count_images(data.test), batch_size=AT_ONCE))
    calibration = list(draw_inputs(data, arguments.images, arguments.seed))
    return Images(calibration, [x for x, _ in pairs], torch.cat([labels for _, labels in pairs]))


def from_photographs(arguments: argparse.Namespace) -> Images:
    photographs = photographs_in(arguments.photographs, arguments.mean, arguments.std)
    drawn = torch.randperm(len(photographs), generator=torch.Generator().manual_seed(arguments.seed)).tolist()
    half = len(drawn) // 2
    labels = torch.tensor([photographs.targets[i] for i in drawn[half:]])
    return Images(
        batches(photographs, drawn[: min(half, arguments.images)]), batches(photographs, drawn[half:]), labels
    )


if __name__ == "__main__":
    main()
