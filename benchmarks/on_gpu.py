"""What a GPU would prove, within some minutes: published rows trained in full, times of inference, the GPU's tests.

    python benchmarks/on_gpu.py --minutes 12 --cifar DIR --out on_gpu
    python benchmarks/on_gpu.py --minutes 5 --cifar DIR --out on_gpu --only 'plan *' 'time *' tests
    python benchmarks/on_gpu.py --mini --minutes 5 --out on_gpu_mini

DIR has CIFAR-10 as sheets `train_*.webp` and `test.webp`, or is an .npz file. The cases and their order: gpu_cases.py.
Each result is written at once, to `trainings.csv`, `plans.csv`, `inference.csv` or `tests.csv`, and what became of each
case to `cases.csv`. Called again with the same `--out` and `--work`, it goes on with what is not done. `--mini` has the
same code run on a CPU.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import gettempdir

from gpu_cases import Settings, cases, made_up, unpacked
from side_by_side import Machine

TRY_IT = "import torch; torch.zeros(1, device='cuda').item()"


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12, help="for everything, ends of unfinished cases included")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10: a folder of sheets, or an .npz file")
    parser.add_argument("--out", type=Path, required=True, help="folder for results, some megabytes")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and unpacked images; by default OUT/work")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of cases, or patterns such as 'train *seed 0'")
    parser.add_argument("--partly", action="store_true", help="begin also what cannot end in time; --work keeps it")
    parser.add_argument("--list", action="store_true", help="print the names, and do nothing")
    parser.add_argument("--mini", action="store_true", help="tiny networks and images, on the CPU")
    arguments = parser.parse_args()
    if arguments.cifar is None and not arguments.mini and not arguments.list:
        parser.error("expected --cifar, or --mini")
    device, work = "cpu" if arguments.mini else "cuda", arguments.work or arguments.out / "work"
    if arguments.mini:
        npz = made_up(work / "mini.npz")
    else:
        npz = work / "cifar10.npz" if arguments.list else unpacked(arguments.cifar, work / "cifar10.npz")
    settings = Settings(device, arguments.out, work, npz, arguments.mini)
    wanted = [case for case in cases(settings) if any(fnmatchcase(case.name, pattern) for pattern in arguments.only)]
    if arguments.list:
        print(*(case.name for case in wanted), sep="\n")
        return
    seconds = 60 * arguments.minutes - (time.monotonic() - began)
    together = alone if arguments.mini else many_processes
    Machine(arguments.out, seconds, together, partly=arguments.partly, afresh=not arguments.mini).run(wanted)


def alone() -> AbstractContextManager[str]:
    """On a CPU nothing is needed."""
    return nullcontext("")


@contextmanager
def many_processes() -> Iterator[str]:
    """Let kernels of several processes run on the GPU at once, by NVIDIA's MPS where that works; else it is ""."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        yield ""
        return
    folder = Path(gettempdir()) / "ghostify-mps"  # the same each time: one may be left of a call that was killed
    folder.mkdir(exist_ok=True)
    places = dict.fromkeys(("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"), str(folder))
    try:
        os.environ.update(places)
        works(control, "-d")
        found = works(sys.executable, "-c", TRY_IT)
        if not found:  # without it processes find the GPU
            forget(places)
        yield "MPS" if found else ""
    finally:
        os.environ.update(places)  # by which its end finds it
        works(control, said="quit -t 5\n")
        forget(places)


def works(*command: str, said: str = "") -> bool:
    """True if a command ends well within a minute."""
    try:
        return not subprocess.run(command, input=said, text=True, check=False, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def forget(places: Iterable[str]) -> None:
    """Take variables out of the environment."""
    for name in places:
        os.environ.pop(name, None)


if __name__ == "__main__":
    main()
