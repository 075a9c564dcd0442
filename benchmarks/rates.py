"""Is the learning rate that a run chooses the best of its grid? Held-out scores of full trainings at each rate, as CSV.

    python benchmarks/rates.py faster/ --network resnet56 --weights resnet56.th --data npz:cifar10.npz --tune 1 \\
        --steps DIR --out benchmarks/results/rates.csv
    python benchmarks/rates.py faster/ --network flowers/network.safetensors --data imagefolder:flowers …

`faster/` is the folder of a run, whose network before tuning is taken; --network is the original, a MODEL with its
--weights or a file of its own. It is tuned as a run does it, and then for as long at each rate. `--steps` keeps what
was finished; rows that are there already are not made again.
"""

import argparse
import shlex
import sys
import time
from functools import partial
from pathlib import Path

from rows import read_rows, write_rows

from ghostify import create_model, load
from ghostify.allocator import keep_freed_memory
from ghostify.jobs.run_settings import STEPS, Tuning
from ghostify.jobs.steps import Steps
from ghostify.jobs.tune import RATES, SCORED, TuningSettings, judge, learn, tune
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.verbs.run import data_of_run


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--network", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--tune", default="1")
    parser.add_argument("--steps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    if arguments.weights is None:
        original = load(arguments.network)
    else:
        original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    data = data_of_run(original, arguments.data, arguments.image_size, None, None)
    (file,) = (arguments.run / STEPS).glob("converted *.safetensors")
    settings, name = TuningSettings(Tuning.of(arguments.tune)), f"{arguments.network}, {arguments.tune}"
    steps = Steps(arguments.steps, {"run": str(file), "tune": arguments.tune})
    told = steps.values(
        f"{name}.json", lambda: tune(partial(load, file), original, data, settings, steps, name, shown)[1]
    )
    rows = read_rows(arguments.out)
    done = {(row["network"], row["tune"], row["rate"]) for row in rows}
    for rate in RATES:
        if (arguments.network, arguments.tune, f"{rate:g}") in done:
            continue
        started = time.perf_counter()
        model, part = load(file), data.part(told["images"], settings.seed)
        recipe = settings.recipe(data.batch, epochs=told["epochs"], lr=rate)
        learn(model, original, part, recipe, settings, steps.path(f"{name}, {rate:g}.checkpoint"), shown)
        found = judge(model, original, data, settings, SCORED)
        rows.append(
            {
                "network": arguments.network,
                "tune": arguments.tune,
                "images": told["images"],
                "rate": f"{rate:g}",
                "chosen": rate == told["rate"],
                "trial_error": told["tried"].get(f"{rate:g}", ""),
                "val_top1_before": f"{told['before']['score']:.4f}",
                "val_top1": f"{found.score:.4f}",
                "val_error": f"{found.error:.6f}",
                "seconds": f"{time.perf_counter() - started:.0f}",
                **describe_environment("cpu"),
                "command": "python " + shlex.join(sys.argv),
            }
        )
        write_rows(arguments.out, rows)
        print(f"{arguments.network} at {rate:g}: {found}", file=sys.stderr)


def shown(task: str, detail: str, done: int, total: int) -> None:
    print(task, detail, f"({done}/{total})", end="\r", file=sys.stderr)


if __name__ == "__main__":
    main()
