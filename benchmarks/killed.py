"""Does a run that is killed and called again end with the files of an undisturbed one? Digests of both, as JSON.

    python benchmarks/killed.py --kills 10 --out benchmarks/results/killed.json -- \\
        --model resnet20 --data digits --epochs 2 --target-speedup 1.3 --tune 2 --images 128 --effort fast

All behind `--` goes to `ghostify run`. An undisturbed run measures times; all others get these, as other times make
another plan. One of them is undisturbed, too. Each other one is killed once, the moments of their deaths being random
among the seconds that this took, and called again.
"""

import argparse
import hashlib
import json
import random
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from ghostify.jobs.road import MEASUREMENTS
from ghostify.jobs.run_settings import PLAN, STEPS
from ghostify.measure.environment import describe_environment

KINDS = (".onnx", ".xml", ".bin", ".safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("run", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    words = [word for word in arguments.run if word != "--"]
    chance = random.Random(arguments.seed)
    deaths = []
    with TemporaryDirectory() as folder:
        first, again, killed = (Path(folder) / name for name in ("first", "again", "killed"))
        finished(words, first)
        with_times_of(first, again)
        started = time.perf_counter()
        finished(words, again)
        seconds = time.perf_counter() - started
        expected = digests(again)
        for _ in range(arguments.kills):
            with_times_of(first, killed)
            process, moment = begun(words, killed), chance.uniform(0, seconds)
            time.sleep(moment)
            was_alive = process.poll() is None
            process.kill()
            process.wait()
            steps = sorted(path.name for path in (killed / STEPS).iterdir())
            finished(words, killed)
            found = digests(killed)
            other = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
            deaths.append({"second": round(moment, 1), "was_alive": was_alive, "steps": steps, "other_files": other})
            print(deaths[-1], file=sys.stderr, flush=True)
            shutil.rmtree(killed)
    result = {
        "same": sum(not death["other_files"] for death in deaths if death["was_alive"]),
        "killed": sum(death["was_alive"] for death in deaths),
        "seconds_with_known_times": round(seconds, 1),
        "files": expected,
        "deaths": deaths,
        "environment": describe_environment(),
        "command": "python " + shlex.join(sys.argv),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"the same {result['same']} times of {result['killed']}", file=sys.stderr)


def with_times_of(first: Path, out: Path) -> None:
    """Make a folder for a run that knows the times that another one measured."""
    (out / STEPS).mkdir(parents=True)
    shutil.copy(first / STEPS / MEASUREMENTS, out / STEPS / MEASUREMENTS)


def finished(words: list[str], out: Path) -> None:
    """Run to the end."""
    if begun(words, out).wait():
        sys.exit(f"the run in {out} failed")


def begun(words: list[str], out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ghostify", "run", *words, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def digests(folder: Path) -> dict[str, str]:
    """Digests of networks, files for the engine and plans."""
    files = [path for path in folder.rglob("*") if path.suffix in KINDS]
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}
    layers = json.dumps(json.loads((folder / PLAN).read_text())["layers"])  # not how quiet the machine was
    return found | {PLAN: hashlib.sha256(layers.encode()).hexdigest()[:16]}


if __name__ == "__main__":
    main()
