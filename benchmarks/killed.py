"""Is a run that is killed again and again the same as an undisturbed one? Digests of both, as JSON.

    python benchmarks/killed.py --kills 10 --out benchmarks/results/killed.json -- \\
        --model resnet20 --weights resnet20.th --data npz:cifar10.npz --target-speedup 1.3 --tune 1 --images 128

All behind `--` goes to `ghostify run`. The killed run gets the times that the undisturbed one measured: other times
make another plan. Each death comes at a random moment of a third of what the undisturbed run took.
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
    with TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        started = time.perf_counter()
        begun(words, whole).wait()
        seconds = time.perf_counter() - started
        (killed / STEPS).mkdir(parents=True)
        shutil.copy(whole / STEPS / MEASUREMENTS, killed / STEPS / MEASUREMENTS)
        moments = []
        for _ in range(arguments.kills):
            process = begun(words, killed)
            moments.append(round(chance.uniform(0, seconds / 3), 1))
            time.sleep(moments[-1])
            moments[-1] = moments[-1] if process.poll() is None else None
            process.kill()
            process.wait()
        assert begun(words, killed).wait() == 0
        first, second = digests(whole), digests(killed)
    result = {
        "same": first == second,
        "files": {name: [first.get(name), second.get(name)] for name in sorted({*first, *second})},
        "undisturbed_seconds": round(seconds, 1),
        "killed_after_seconds": moments,  # None: it had ended before
        "environment": describe_environment(),
        "command": "python " + shlex.join(sys.argv),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print("the same" if result["same"] else "not the same", file=sys.stderr)


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
