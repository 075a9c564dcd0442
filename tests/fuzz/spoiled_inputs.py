"""Spoilt inputs through every verb of the command line: each is refused in one line, or does no harm.

    python tests/fuzz/spoiled_inputs.py --count 1000 --seed 0
    python tests/fuzz/spoiled_inputs.py --seed 0 --one 17

A case is a command that succeeds, and one of its inputs spoilt. It passes where the verb leaves with status 2, one line
on standard error, nothing written and no code of a file run; or with status 0 and results that can be read. The exit
status is 1 if any case did not.
"""

import argparse
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import click
import numpy as np
import spoiling
import torch
from PIL import Image
from safetensors.torch import save_file
from spoiling import ARRAYS, BOXES, CANARY, FOLDERS, IMAGES, NETWORKS, PHOTOGRAPHS, PLANS, WEIGHTS

from ghostify import create_model, load
from ghostify.cli import cli, main
from ghostify.planning.plan_file import read_plan

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the tests' networks are, for a script's sake
from made_boxes import make_split

SECONDS = 60  # each case, on a busy machine
MEMORY = 24 * 2**30  # bytes of addresses: what asks for more is refused, and fills nobody's machine
LONGEST = 500  # characters of a line
PROGRESS = re.compile(r".+: .* \(\d+/\d+\)")
# Minutes of work, which begin when all that it is given was looked at.
LAST_OF_RUN = "ghostify.verbs.run.run"


class OutOfTimeError(BaseException):
    """A case took longer than it may; no part of the code under test may catch it."""


class WorkBeginsError(BaseException):
    """A verb found nothing to refuse, and begins with minutes of work."""


@dataclass(frozen=True)
class Command:
    """A command that succeeds as it is.

    Args:
        line: Words of the command line; ``{x}`` is the input to be spoilt, other inputs are in the folder above.
        good: The input in that folder; where there is none of that name, one of those with an ending.
    """

    line: str
    good: str = ""

    @property
    def is_slow(self) -> bool:
        return self.line.startswith(("export", "compare", "explain", "look"))

    def words(self, x: str = "") -> list[str]:
        words = self.line.format(x=x).split()
        verb = 2 if words[0] == "detect" else 1
        return [*words[:verb], "--json", *words[verb:]]


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Args:
        share: Of all cases, in parts.
        commands: Those that take such an input.
        spoils: The ways to spoil it.
    """

    share: int
    commands: Sequence[Command]
    spoils: Sequence[spoiling.Spoil]


SIZE = "--input-shape 3,12,12"
NPZ = "--data npz:../colours.npz --device cpu"
FIT = "--images 32 --effort fast"
LEARN = "--epochs 1 --batch-size 20"
SPEED = "--target-speedup 1.2"
TINY = "--factory tiny:Tiny"
BOXED = "--data coco:../boxes --workers 0 --device cpu"
DETECTOR = "tiny_detector:retinanet"


def commands(good: str, *lines: str) -> list[Command]:
    return [Command(line, good) for line in lines]


WEIGHTS_OF = commands(
    "weights",
    f"count tiny:Tiny --weights {{x}} {SIZE}",
    f"convert tiny:Tiny --weights {{x}} {SIZE} --out out",
    f"convert tiny:Tiny --weights {{x}} {NPZ} {FIT} --out out",
    f"plan tiny:Tiny --weights {{x}} {NPZ} --target-macs 0.7 --images 32 --out out",
    f"train tiny:Tiny --weights {{x}} {NPZ} {LEARN} --out out",
    f"evaluate tiny:Tiny --weights {{x}} {NPZ}",
    f"export tiny:Tiny --weights {{x}} {SIZE} --out out",
    "look tiny:Tiny --weights {x} --input-shape 3,24,24 --layer conv1 --out out",
    f"run --model tiny:Tiny --weights {{x}} {NPZ} {SPEED} --out out",
) + commands(
    "detector",
    f"detect evaluate {DETECTOR} --weights {{x}} {BOXED}",
    f"detect predict {DETECTOR} --weights {{x}} ../image.png --out out",
    f"detect train {DETECTOR} --weights {{x}} {BOXED} --epochs 1 --out out",
)
PLANS_OF = commands(
    "plan.json",
    f"convert tiny:Tiny --plan {{x}} {NPZ} {FIT} --out out",
    f"convert tiny:Tiny --plan {{x}} --calibration ../photographs --workers 0 {SIZE} {FIT} --out out",
) + commands("blocks.json", f"convert small:Blocks --plan {{x}} {NPZ} {FIT} --out out")
NETWORKS_OF = (
    commands(
        "ghost.safetensors",
        f"count {{x}} {TINY} {SIZE}",
        f"evaluate {{x}} {TINY} {NPZ}",
        f"train {{x}} {TINY} {NPZ} {LEARN} --out out",
        f"train tiny:Tiny --teacher {{x}} {TINY} {NPZ} {LEARN} --out out",
        f"export {{x}} {TINY} --out out",
        f"compare tiny:Tiny {{x}} {TINY} {SIZE} --blocks 6",
        f"compare {{x}} tiny:Tiny {TINY} {SIZE} --blocks 6",
        f"explain {{x}} {TINY} --calls 1 --engine onnxruntime",
        f"look {{x}} {TINY} --input-shape 3,24,24 --layer conv1 --out out",
        f"look tiny:Tiny --against {{x}} {TINY} --input-shape 3,24,24 --layer conv1 --out out",
        f"run --model {{x}} {TINY} {NPZ} {SPEED} --out out",
    )
    + commands(
        "original.safetensors",
        f"plan {{x}} {TINY} {NPZ} --target-macs 0.7 --images 32 --out out",
        f"convert {{x}} {TINY} --out out",
        f"convert {{x}} {TINY} --calibration ../photographs --workers 0 {FIT} --out out",
    )
    + commands("resnet.safetensors", f"count {{x}} {SIZE}", f"evaluate {{x}} {NPZ}")
    + commands(
        "ghost_detector.safetensors",
        f"detect predict {{x}} --factory {DETECTOR} ../image.png --out out",
        f"detect evaluate {{x}} --factory {DETECTOR} {BOXED}",
    )
)
IMAGES_OF = commands(
    "image",
    "look tiny:Tiny --image {x} --input-shape 3,24,24 --layer conv1 --out out",
    f"detect predict {DETECTOR} {{x}} --out out",
    f"detect predict {DETECTOR} ../image.png {{x}} --out out",
)
ARRAYS_OF = commands(
    "colours.npz",
    "evaluate tiny:Tiny --data npz:{x}",
    f"train tiny:Tiny --data npz:{{x}} {LEARN} --out out",
    f"convert tiny:Tiny --data npz:{{x}} {FIT} --out out",
    "plan tiny:Tiny --data npz:{x} --target-macs 0.7 --images 32 --out out",
    "export tiny:Tiny --data npz:{x} --out out",
    f"run --model tiny:Tiny --data npz:{{x}} {SPEED} --out out",
)
OF_FOLDER = "--image-size 12 --workers 0"
FOLDERS_OF = commands(
    "folder",
    f"evaluate tiny:Tiny --data imagefolder:{{x}} {OF_FOLDER}",
    f"evaluate tiny:Tiny --data imagenet:{{x}} {OF_FOLDER}",
    f"train tiny:Tiny --data imagefolder:{{x}} {OF_FOLDER} {LEARN} --out out",
    f"convert tiny:Tiny --data imagefolder:{{x}} {OF_FOLDER} {FIT} --out out",
    f"convert tiny:Tiny --data imagenet:{{x}} {OF_FOLDER} {FIT} --out out",
    f"plan tiny:Tiny --data imagefolder:{{x}} {OF_FOLDER} --target-macs 0.7 --images 32 --out out",
)
PHOTOGRAPHS_OF = commands(
    "photographs",
    f"convert tiny:Tiny --calibration {{x}} --workers 0 {SIZE} {FIT} --out out",
    f"plan ../original.safetensors {TINY} --calibration {{x}} --workers 0 --target-macs 0.7 --images 32 --out out",
)
BOXES_OF = commands(
    "boxes",
    f"detect train {DETECTOR} --data coco:{{x}} --workers 0 --epochs 1 --out out",
    f"detect evaluate {DETECTOR} --data coco:{{x}} --workers 0",
    f"detect evaluate {DETECTOR} --data coco:{{x}} --workers 0 --out out",
    f"convert {DETECTOR} --data coco:{{x}} --workers 0 {FIT} --out out",
)
ALL = [*WEIGHTS_OF, *PLANS_OF, *NETWORKS_OF, *IMAGES_OF, *ARRAYS_OF, *FOLDERS_OF, *PHOTOGRAPHS_OF, *BOXES_OF]
KINDS = {
    "weights": Kind(20, WEIGHTS_OF, WEIGHTS),
    "plan": Kind(15, PLANS_OF, PLANS),
    "network": Kind(20, NETWORKS_OF, NETWORKS),
    "image": Kind(8, IMAGES_OF, IMAGES),
    "arrays": Kind(7, ARRAYS_OF, ARRAYS),
    "folder": Kind(7, FOLDERS_OF, FOLDERS),
    "photographs": Kind(4, PHOTOGRAPHS_OF, PHOTOGRAPHS),
    "boxes": Kind(7, BOXES_OF, BOXES),
    "options": Kind(15, [*ALL, Command("models"), Command("recipes")], ()),
}
ENDINGS = {
    "weights": (".pth", ".pt", ".ckpt", ".safetensors"),
    "detector": (".pth", ".pt", ".safetensors"),
    "image": (".png", ".jpg", ".bmp", ".webp"),
}


# Good inputs.


def make_inputs(root: Path) -> None:
    """Write all good inputs; the current folder is inside ``root``."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    def part(number: int) -> tuple[Any, Any]:
        labels = np.arange(number) % 3
        pixels = rng.integers(0, 100, (number, 12, 12, 3))
        pixels[np.arange(number), :, :, labels] += 150
        return pixels.astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = part(60), part(30)
    np.savez(root / "colours.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    picture = Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8))
    for ending in ENDINGS["image"]:
        picture.save(root / f"image{ending}")
    (root / "photographs").mkdir()
    for number in range(36):
        image = Image.fromarray(x_train[number]).resize((18, 16))
        image.save(root / "photographs" / f"{number}{ENDINGS['image'][number % 4]}")
    for split, number in (("train", 20), ("val", 6)):
        for name in "ab":
            folder = root / "folder" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                Image.fromarray(x_train[index]).resize((18, 16)).save(folder / f"{index}.png")
    for seed, (split, number) in enumerate((("train2017", 33), ("val2017", 5))):
        make_split(root / "boxes", split, number, seed)
    for name, model in (("weights", "tiny:Tiny"), ("detector", DETECTOR)):
        state = create_model(model).state_dict()
        for ending in ENDINGS[name]:
            (save_file if ending == ".safetensors" else torch.save)(state, root / f"{name}{ending}")
    made = {
        "plan.json": f"plan tiny:Tiny {NPZ} --target-macs 0.6 --images 32",
        "blocks.json": f"plan small:Blocks {NPZ} --target-macs 0.6 --images 32 --whole-blocks",
        "original.safetensors": f"train tiny:Tiny {NPZ} {LEARN}",
        "ghost.safetensors": f"convert tiny:Tiny --plan ../plan.json {NPZ} {FIT}",
        "resnet.safetensors": f"convert resnet20 {SIZE} --num-classes 3",
        "ghost_detector.safetensors": f"convert {DETECTOR} {BOXED} {FIT}",
    }
    for name, line in made.items():
        seen = run([*line.split(), "--out", "made"])
        if seen.status:
            raise RuntimeError(f"{line}: {seen.error} {seen.trace}")
        written = {"plan.json": "plan.json", "blocks.json": "plan.json", "original.safetensors": "network.safetensors"}
        shutil.copy(Path("made") / written.get(name, "ghost.safetensors"), root / name)
        shutil.rmtree("made")
    (root / f"{CANARY}.py").write_text(
        f"open({CANARY!r}, 'w')\ndef build(**options): open({CANARY!r}, 'w')\nclass Built: build = build\n"
    )


@contextmanager
def prepared() -> Iterator[Path]:
    """A folder with the good inputs; the current folder is an empty one within it, and memory has a bound."""
    threads, here, path = torch.get_num_threads(), Path.cwd(), list(sys.path)
    bound = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, bound[1]))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        (root / "case").mkdir()
        os.chdir(root / "case")
        sys.path.append(str(root))
        try:
            make_inputs(root)
            importlib.invalidate_caches()
            yield root
        finally:
            os.chdir(here)
            sys.path[:] = path
            torch.set_num_threads(threads)
            resource.setrlimit(resource.RLIMIT_AS, bound)


# Commands, run.


@dataclass(frozen=True)
class Seen:
    """What a command did.

    Args:
        status: Exit status; None: there was none.
        out: Standard output.
        error: Lines on standard error that are no progress.
        trace: What was raised, where something was.
    """

    status: int | None
    out: str
    error: list[str]
    trace: str = ""


def run(words: Sequence[str]) -> Seen:
    """Run a command in this process, with all that it writes to its outputs, and within its time."""
    status, trace = None, ""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with written_to(out.fileno(), err.fileno()), bounded():
            try:
                status = main(words)
            except WorkBeginsError:
                status, trace = 0, "began"
            except OutOfTimeError:
                trace = f"not done after {SECONDS} s\n{traceback.format_exc()}"
            except BaseException:  # noqa: BLE001  # that is what is looked for
                trace = traceback.format_exc()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    torch.set_num_threads(1)
    return Seen(status, texts[0], [line for line in texts[1].splitlines() if not PROGRESS.fullmatch(line)], trace)


@contextmanager
def written_to(out: int, err: int) -> Iterator[None]:
    """Both outputs, also what native code writes to them."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        with (
            open(1, "w", closefd=False) as new_out,
            open(2, "w", closefd=False) as new_err,
            redirect_stdout(new_out),
            redirect_stderr(new_err),
        ):
            yield
    finally:
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def bounded() -> Iterator[None]:
    def out_of_time(number: int, frame: Any) -> None:
        raise OutOfTimeError

    def begins(*args: Any, **kwargs: Any) -> None:
        raise WorkBeginsError

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with mock.patch(LAST_OF_RUN, begins):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All files in a folder with what they hold; None for folders."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in found}


# Options, spoilt.


def parameters_of(words: Sequence[str]) -> dict[str, click.Option]:
    """The options of the verb that a command line names."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.commands[word]
    return {name: option for option in command.params if isinstance(option, click.Option) for name in option.opts}


# Long where they are right: no fault of theirs that they are not done in time.
PATIENT = ("--epochs", "--finetune", "--ghost-epochs", "--calls", "--blocks", "--accumulate", "--out", "--seed")
WRONG = ["x", "", "nan", "-1", "-1e9", "1e400", "0", "None", "a,b,c", "9" * 30, "3,0,3", "auto!", "\x00", "ü", "a\nb"]
ELSEWHERE = [
    *("nowhere/there.x", "/proc/self/mem", "/dev/null", ".", "/nonexistent/a/b", "../colours.npz/in", "x" * 300),
    *("\ud800", "-", "../folder", "../weights.pth", "../plan.json", "http://a.b/c"),
]
NAMES = [
    *("resnet19", "torchvision:", "torchvision:resnet", "timm:x", "tiny:Nothing", "tiny:fails", "tiny.py:Tiny"),
    *("nowhere:net", f"../{CANARY}:build", "", ":", "tiny:", ":Tiny", "tiny:Tiny?width=", "tiny:Tiny?width=-1", "?"),
    *("tiny:Tiny?widht=3", "tiny:Tiny?width=999999999999", "tiny:Tiny?num_classes=a", "tiny:returns_no_module"),
    *("nothing.safetensors", "../weights.pth", "../weights.safetensors", "../plan.json", "../folder", "tiny Tiny"),
]
SOURCES = [
    *("", "npz", "npz:", "npz:nowhere", "digit", "digits:x", "imagefolder:nowhere", "imagenet:", "cifar", "coco:"),
    *("npz:../folder", "npz:../weights.pth", "imagefolder:../colours.npz", "coco:../folder", "coco:../boxes?x=1"),
    *("imagefolder:../boxes", "http:x", "npz:../colours.npz?x"),
]
TOGETHER = [
    *("--plan ../plan.json --ratio 3", "--skip nothing", "--skip", "--cheap-kernel-size 2", "--ratio 0", "--part fpn"),
    *("--target-speedup 2", "--target-macs 2", "--target-macs 0.5 --max-accuracy-drop 1", "--calibration ../folder"),
    *("--device cuda", "--device cuda:9", "--device tpu", "--engine tensorrt", "--engine eager", "--format onx"),
    *("--hints", "--new-head", "--resume", "--recipe nothing", "--cuda-graph", "--num-classes 7", "--batch-size 0"),
    *("--data digits --image-size 9", "--finetune 1", "--layer nothing", "--threads 0", "--workers -1", "--nothing"),
    *("--input-shape 3,0,12", "--input-shape 4,12,12", "--input-shape 3,1,1", "--input-shape 12", "--std 0,0,0"),
    *("--mean 1", "--weights ../plan.json", "--teacher ../plan.json", "--image ../plan.json", "--json=3", "--seed -1"),
    *("--input-shape 3,99999999,99999999", "--batch-size 999999999999", "--num-classes 999999999999", "extra"),
    *("--optimizer adam", "--schedule never", "--precision fp8", "--lr nan", "--lr 0", "--hold-out 0.9", "--images 0"),
]


def spoilt_words(rng: Random, words: list[str]) -> tuple[list[str], str]:
    """A command line with a fault, and what was done."""
    words = list(words)
    options = parameters_of(words)
    places = [place for place, word in enumerate(words) if word in options and not options[word].is_flag]
    how = rng.choice(
        ["misspelt", "value", "value", "no value", "left out", "doubled", "more", "more", "more", "argument"]
    )
    if how in ("argument", "more") or not places:
        if how == "argument" and words[-1] != "--json":
            place = words.index("--json") + 1
            words[place] = rng.choice([*NAMES, *ELSEWHERE]) if words[place] not in options else "extra"
            return words, f"argument {words[place][:40]!r}"
        return [*words, *rng.choice(TOGETHER).split()], "more"
    place = rng.choice(places)
    option = options[words[place]]
    if how == "misspelt":
        words[place] += "q"
    elif how == "no value":
        del words[place + 1]
    elif how == "left out":
        del words[place : place + 2]
    elif how == "doubled":
        words[place + 2 : place + 2] = [words[place], odd_value(rng, option)]
    else:
        words[place + 1] = odd_value(rng, option)
    return words, f"{how} {option.opts[0]}"


def odd_value(rng: Random, option: click.Option) -> str:
    if option.name == "data_name":
        return rng.choice(SOURCES)
    if option.name in ("out", "plan_file", "weights", "photographs", "teacher", "image"):
        return rng.choice([*ELSEWHERE, *WRONG])
    if option.name in ("model", "factory", "against"):
        return rng.choice([*NAMES, *WRONG])
    wrong = [value for value in WRONG if option.opts[0] not in PATIENT or not value.startswith("99")]
    return rng.choice(wrong)


# Cases.


@dataclass
class Case:
    """A command with a spoilt input, drawn by its number.

    Args:
        seed: Seed of all cases.
        number: Number of this one.
        kinds: Kinds to draw from.
        quick: Leave out commands that take seconds where their input does no harm.
    """

    seed: int
    number: int
    kinds: Sequence[str] = tuple(KINDS)
    quick: bool = False
    kind: str = ""
    words: list[str] = field(default_factory=list)
    spoilt: str = ""
    seen: Seen | None = None

    def check(self, root: Path) -> list[str]:
        """Run the case; all that is wrong with it."""
        here = root / "case"
        rng = Random(f"{self.seed} {self.number}")
        self.kind = rng.choices(self.kinds, [KINDS[kind].share for kind in self.kinds])[0]
        kind = KINDS[self.kind]
        command = rng.choice([command for command in kind.commands if not (self.quick and command.is_slow)])
        ending = rng.choice(ENDINGS.get(command.good, ("",)))
        good = root / f"{command.good}{ending}"
        prove(command, good, here)
        empty(here)
        earlier = rng.random() < 0.3
        if earlier:
            (here / "out").mkdir()
            (here / "out" / "notes.txt").write_text("of before")
        if self.kind == "options":
            self.words, self.spoilt = spoilt_words(rng, command.words(f"../{good.name}"))
        else:
            x = here / f"x{''.join(good.suffixes)}"
            (shutil.copytree if good.is_dir() else shutil.copy)(good, x)
            self.spoilt = rng.choice(kind.spoils)(rng, x)
            self.words = command.words(x.name)
        before = tree(here)
        self.seen = run(self.words)
        wrong = faults_of(self.seen, before, tree(here))
        if self.seen.status == 0 and not self.seen.trace and not wrong:
            wrong += unreadable(here / "out")
            needed = (
                set() if self.kind == "options" else {name for name in WRITES[command] if "predict" not in command.line}
            )
            lost = needed - tree(here).keys()
            wrong += [f"not written: {sorted(lost)}"] if lost else []
        return wrong

    @property
    def refused(self) -> bool:
        return self.seen is not None and self.seen.status == 2


# What each command writes where it is not spoilt.
WRITES: dict[Command, set[str]] = {}


def prove(command: Command, good: Path, here: Path) -> None:
    """See once that a command succeeds as it is, and what it writes."""
    if command in WRITES:
        return
    empty(here)
    seen = run(command.words(f"../{good.name}"))
    wrong = faults_of(seen, {}, tree(here)) + unreadable(here / "out")
    if seen.status != 0 or wrong:
        raise RuntimeError(f"ghostify {' '.join(command.words(good.name))}: {wrong} {seen.error} {seen.trace}")
    WRITES[command] = set(tree(here))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        spoiling.remove(path)


def faults_of(seen: Seen, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is wrong with what a command did."""
    wrong = []
    if CANARY in after:
        wrong.append("code of a file was run")
    if seen.trace == "began":
        return wrong
    if seen.trace:
        return [*wrong, seen.trace.strip().splitlines()[-1][:300], place_of(seen.trace)]
    if seen.status == 2:
        if len(seen.error) != 1:
            wrong.append(f"{len(seen.error)} lines on standard error")
        elif not seen.error[0].isprintable() or len(seen.error[0]) >= LONGEST:
            wrong.append(f"no plain line of fewer than {LONGEST} characters, but {len(seen.error[0])}")
        if seen.out:
            wrong.append("something on standard output")
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0))
        wrong += [f"written: {', '.join(changed)}"] if changed else []
    elif seen.status == 0:
        try:
            json.loads(seen.out, parse_constant=no_json)
        except ValueError as error:
            wrong.append(f"no JSON on standard output: {error}" if seen.out else "nothing on standard output")
        changed = [name for name in before if before[name] != after.get(name, 0) and not name.startswith("out/")]
        wrong += [f"changed: {', '.join(changed)}"] if changed else []
        wrong += [f"left behind: {name}" for name in after if name.endswith(".partial")]
    else:
        wrong.append(f"status {seen.status}")
    return wrong


def no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def place_of(trace: str) -> str:
    """The last function of ours in a traceback."""
    own = re.findall(r'/src/ghostify/(\S+)", line (\d+), in (\S+)', trace)
    return f"at {own[-1][0]}:{own[-1][1]}, {own[-1][2]}" if own else ""


def unreadable(out: Path) -> list[str]:
    """The results that cannot be read again."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".safetensors": lambda path: load(path),
        ".json": lambda path: (read_plan if path.name == "plan.json" else read_json)(path),
        ".png": read_picture,
        ".jpg": read_picture,
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".onnx": read_onnx,
    }
    wrong = []
    for path in sorted(out.rglob("*")) if out.is_dir() else []:
        try:
            readers.get(path.suffix, lambda path: None)(path)
        except Exception as error:  # noqa: BLE001  # whatever a reader raises
            wrong.append(f"{path.name} cannot be read: {error}"[:300])
    return wrong


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=no_json)


def read_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def read_onnx(path: Path) -> None:
    import onnxruntime  # noqa: PLC0415  # only where a case comes so far

    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def all_cases(seed: int, numbers: Sequence[int], *, loud: bool = False) -> int:
    """Run cases and print those that fail, and how many were refused of each kind; the number of failures."""
    failed, cases, refused = 0, Counter[str](), Counter[str]()
    with prepared() as root:
        for number in numbers:
            case, began = Case(seed, number), time.monotonic()
            wrong = case.check(root)
            cases[case.kind] += 1
            refused[case.kind] += case.refused
            failed += bool(wrong)
            if wrong or loud:
                print(f"{number} {case.kind}: {case.spoilt}\n  ghostify {' '.join(map(repr, case.words))}")
                print(*(f"  WRONG: {line}" for line in wrong), sep="\n")
                seen = case.seen
                assert seen is not None
                print(*(f"  | {line[:1000]}" for line in seen.error), sep="\n")
                if loud:
                    print(f"  status {seen.status}, {time.monotonic() - began:.1f} s\n{seen.out}{seen.trace}")
                sys.stdout.flush()
    for kind, count in cases.items():
        print(f"{kind}: {refused[kind]} of {count} refused, the others did no harm or failed")
    print(f"{failed} of {len(numbers)} cases failed")
    return failed


def command_line() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", type=int, help="run one case, with all that it prints")
    arguments = parser.parse_args()
    one = arguments.one
    numbers = range(arguments.count) if one is None else [one]
    return 1 if all_cases(arguments.seed, numbers, loud=one is not None) else 0


if __name__ == "__main__":
    sys.exit(command_line())
