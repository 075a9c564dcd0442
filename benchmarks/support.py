"""Which networks of torchvision and timm every verb takes, as CSV, and the support matrix that is made of it.

    python benchmarks/support.py --out benchmarks/results/support.csv
    python benchmarks/support.py --out benchmarks/results/support.csv --shard 1/2 --minutes 60
    python benchmarks/support.py --out benchmarks/results/support.csv --page docs/support.md
    python benchmarks/support.py --one timm:resnet18

Each row: a network of random weights, random images of the smallest size that it takes, and what became of it in each
stage: "ok", "refused: …" (one line for the user), "failed: …" (a traceback, a hang, a crash, or another function than
before), "not reached". Each network has a process of its own, with bounds on its memory and on the computing that a
stage may take. Rows of the same state of the code are not made again, those of another are replaced, unless `--older`
keeps them; small networks of each family come first. `--page` writes the matrix between the marks in that file and runs
nothing, `--one` prints a network's row and the tracebacks.
"""

import argparse
import copy
import fcntl
import gc
import json
import multiprocessing
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import timm
import torch
import torchvision
from rows import read_rows, write_rows
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ghostify import InputError, convert, count, create_model, deploy, export, load, plan, save
from ghostify.atomic import replacing
from ghostify.inference.deploy import Deployed
from ghostify.inference.export import HALF_TOLERANCE, TOLERANCE, rounding_of
from ghostify.measure.count import Count
from ghostify.plain_part import input_shape_of, plain_part

STAGES = ("count", "convert", "plan", "planned", "calibrated", "deploy", "export", "save")
AS_PLANNED = "as planned"  # where a plan was followed, its layers were fitted to images
WELL = ("ok", AS_PLANNED)
SIDES = (32, 64, 96, 128, 160, 192, 224, 256, 299, 320, 331)
SMALL_SIDE = 128  # of a detector's images
IMAGES = 32  # the fewest that a conversion takes
SHARE = 0.8  # of the multiply-adds; where a network can lose less, half of what it can
CONVOLUTIONAL = 1 / 3  # of the multiply-adds are convolutions'; or else
SPATIAL = 10  # convolutions of more than a pixel, and no attention, whose products belong to no such layer
DOUBLE = 1e-8  # of the largest output: rounding in float64
MARKS = ("<!-- benchmarks/support.py writes what follows -->", "<!-- to here -->")


class OutOfTimeError(BaseException):
    """A stage took longer than it may; no part of the code under test may catch it."""


@dataclass(frozen=True)
class Limits:
    """What a network may take.

    Args:
        seconds: Computing time of each stage.
        gigabytes: Memory of the process.
    """

    seconds: int
    gigabytes: float


@dataclass
class Trial:
    """A network on its way through the stages.

    Args:
        original: The network in eval mode.
        images: Calibration images.
        changed: Its copies, by the stage that made them.
        found: Columns of its row.
        folder: Place for files.
    """

    original: nn.Module
    images: Tensor
    folder: Path
    changed: dict[str, nn.Module] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    plan: Any = None
    deployed: Deployed | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    @property
    def last(self) -> tuple[str, nn.Module]:
        """The copy that went furthest, and the stage that made it."""
        return next(
            ((s, self.changed[s]) for s in ("planned", "calibrated", "convert") if s in self.changed),
            ("original", self.original),
        )


class WrongError(Exception):
    """A stage ended, but with a wrong result."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the CSV")
    parser.add_argument("--sources", nargs="+", default=["torchvision", "timm"], choices=["torchvision", "timm"])
    parser.add_argument("--networks", nargs="+", help="only these, as source:name")
    parser.add_argument("--families", action="store_true", help="the smallest network of each family only")
    parser.add_argument("--shard", default="1/1", help="part of the networks, such as 1/2")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no network after that")
    parser.add_argument("--seconds", type=int, default=120, help="computing time of a stage")
    parser.add_argument("--gigabytes", type=float, default=10, help="memory of a network's process")
    parser.add_argument("--again", action="store_true", help="also what is there")
    parser.add_argument("--older", action="store_true", help="keep rows of other states of the code")
    parser.add_argument("--failed", action="store_true", help="again what is there and failed")
    parser.add_argument("--one", help="print this network's row, and tracebacks")
    parser.add_argument("--page", type=Path, help="write the matrix into this file")
    arguments = parser.parse_args()
    limits = Limits(arguments.seconds, arguments.gigabytes)
    torch.set_num_threads(1)
    if arguments.one:
        print(json.dumps(tried(arguments.one, limits, loud=True), indent=1))
        return
    if arguments.page:
        write_page(arguments.page, read_rows(arguments.out))
        return
    shard, shards = map(int, arguments.shard.split("/"))
    names = arguments.networks or list(networks(arguments.sources, arguments.families))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that no network's process is left
    state, deadline = state_of_code(), time.monotonic() + 60 * arguments.minutes
    warm_up()
    for name in names[shard - 1 :: shards]:
        if time.monotonic() > deadline:
            break
        row = row_of(read_rows(arguments.out), name)
        there = row is not None and (arguments.older or row["commit"] == state) and not arguments.again
        if there and not (arguments.failed and any(row[stage].startswith("failed") for stage in STAGES)):
            continue
        row = tried(name, limits)
        row |= {"commit": state, **versions(), "command": "python " + shlex.join(sys.argv)}
        put_row(arguments.out, row)
        print(
            name, *(f"{stage}: {row[stage]}" for stage in STAGES if row[stage] not in WELL), row["seconds"], flush=True
        )


# Networks, small ones of each family first.


def networks(sources: list[str], families: bool) -> Iterator[str]:
    """Names as ``source:name``: first the smallest of each family, then the second, and so on."""
    for source in sources:
        ranked = families_of(source)
        for place in range(1 if families else max(map(len, ranked))):
            yield from (f"{source}:{names[place]}" for names in ranked if place < len(names))


def families_of(source: str) -> list[list[str]]:
    """Names of networks by the module that builds them, each family by size; kept, as building them all takes long."""
    kept = Path(gettempdir()) / f"ghostify_support_{source}_{version(source)}.json"
    if kept.exists():
        found: list[list[str]] = json.loads(kept.read_text())
        return found
    families: dict[str, list[str]] = {}
    if source == "timm":
        families = {module: timm.list_models(module=module) for module in timm.list_modules()}
    else:
        for kind in (torchvision.models, torchvision.models.segmentation, torchvision.models.detection):
            for name in torchvision.models.list_models(module=kind):
                families.setdefault(torchvision.models.get_model_builder(name).__module__, []).append(name)
    ranked = [sorted(names, key=lambda name: (size_of(f"{source}:{name}"), name)) for names in families.values()]
    kept.write_text(json.dumps(ranked))
    return ranked


def size_of(name: str) -> float:
    """Number of parameters; by a build without memory where the builder can do that."""
    for device in ("meta", "cpu"):
        with torch.device(device), warnings.catch_warnings(), suppress(Exception):
            warnings.simplefilter("ignore")
            return sum(parameter.numel() for parameter in build(name).parameters())
    return float("inf")


def build(name: str) -> nn.Module:
    """A network of random weights; a detector for small images, where it can be told."""
    small = kind_of(name) == "detection" and ":ssd" not in name
    return create_model(name, **({"min_size": SMALL_SIDE, "max_size": SMALL_SIDE} if small else {}))


def kind_of(name: str) -> str:
    source, _, rest = name.partition(":")
    for kind in ("segmentation", "detection"):
        if source == "torchvision" and rest in torchvision.models.list_models(module=getattr(torchvision.models, kind)):
            return kind
    return "classification"


# A network's process.


def tried(name: str, limits: Limits, *, loud: bool = False) -> dict[str, Any]:
    """The row of a network, made in a process of its own."""
    source, _, rest = name.partition(":")
    columns = ("input", "parameters", "macs", "replaced", "convolutions", "dropped", "share", "not_counted")
    row: dict[str, Any] = {"source": source, "network": rest, "kind": kind_of(name)} | dict.fromkeys(columns, "")
    row |= dict.fromkeys(STAGES, "not reached") | {"of": "", "passed_over": "", "seconds": ""}
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=in_process, args=(name, limits, there, loud))
    process.start()
    there.close()
    stage = ""
    try:
        # Waiting is bounded, too; longer than computing, as others may compute on the same cores.
        while here.poll(6 * limits.seconds):
            stage, found = here.recv()
            row |= found
        ended = f"failed: it hung for {6 * limits.seconds} s"
    except EOFError:
        process.join()
        ended = f"failed: its process died with {process.exitcode}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the engines that it started
        process.join()
    if stage in STAGES:
        row[stage] = ended
    elif stage != "done":
        row["count"] = ended
    return row


def in_process(name: str, limits: Limits, pipe: Connection, loud: bool) -> None:
    """Go through the stages; columns go through the pipe with the stage that begins."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limits.gigabytes * 1e9),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, out_of_time)
    if not loud:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        try:
            with bounded(limits.seconds):
                trial = prepared(name, Path(folder), pipe)
        except BaseException as error:  # noqa: BLE001  # whatever a builder raises
            if loud:
                traceback.print_exc()
            pipe.send(("done", {"passed_over": f"it cannot be built or run: {in_words(error)}"}))
            return
        if trial is None:
            return
        for stage in STAGES:
            pipe.send((stage, {}))
            begun = time.process_time()
            trial.found[stage] = outcome(stage, trial, limits, loud)
            trial.found["seconds"] = " ".join(
                [trial.found.get("seconds", ""), f"{time.process_time() - begun:.1f}"]
            ).strip()
            pipe.send((stage, trial.found))
            gc.collect()
    pipe.send(("done", {}))


def out_of_time(number: int, frame: Any) -> None:
    raise OutOfTimeError


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """End what computes longer: by an exception, so that it is known where, else by the signal itself."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def prepared(name: str, folder: Path, pipe: Connection) -> Trial | None:
    """A network and its images; None where it is no convolutional one, and its row says so."""
    torch.manual_seed(0)
    model = build(name)
    shape = small_input(name, model)
    counted = count(model, shape)
    if name.startswith("timm:") and (why := not_convolutional(model, counted)):
        pipe.send(("done", {"input": "×".join(map(str, shape)), "parameters": counted.params, "passed_over": why}))
        return None
    images = torch.rand(IMAGES, *shape)
    learn_statistics_(model, images)
    return Trial(model.eval(), images, folder, found={"input": "×".join(map(str, shape))})


def small_input(name: str, model: nn.Module) -> tuple[int, ...]:
    """The smallest input that a network takes, in eval mode and in training."""
    if kind_of(name) == "detection":
        return input_shape_of(model)
    config = getattr(model, "default_cfg", {}) or {}
    channels, *own = config.get("input_size", (3, 224, 224))
    if config.get("fixed_input_size"):
        return channels, *own
    why: Exception | None = None
    for side in SIDES:
        x = torch.rand(2, channels, side, side)
        try:
            with torch.no_grad():
                finite = all(bool(leaf.isfinite().all()) for leaf in tree_leaves(model.eval()(x)))
                copy.deepcopy(model).train()(x)
            if finite:
                return channels, side, side
        except Exception as error:  # noqa: BLE001  # what is too small for a network may raise anything
            why = error
    raise InputError(f"it takes none of {SIDES} pixels: {why}")


def not_convolutional(model: nn.Module, counted: Count) -> str:
    """In words why a network is not a convolutional one, or ""."""
    in_convs = sum(layer.macs for layer in counted.layers if "Conv" in layer.kind)
    elsewhere = sum(layer.macs for layer in counted.layers if "Conv" not in layer.kind and "Linear" not in layer.kind)
    spatial = sum(isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 for module in model.modules())
    if in_convs >= CONVOLUTIONAL * counted.macs or (not elsewhere and spatial >= SPATIAL):
        return ""
    return f"convolutions have {in_convs / max(1, counted.macs):.0%} of its multiply-adds"


@torch.no_grad()
def learn_statistics_(model: nn.Module, images: Tensor) -> None:
    """Let BatchNorms take these images' statistics: with those of new networks maps vanish or explode in depth."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with suppress(Exception):  # detectors want boxes with their images: they stay as they are
        model.train()(images.clone())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def outcome(stage: str, trial: Trial, limits: Limits, loud: bool) -> str:
    """What became of a stage, in one line."""
    try:
        with bounded(limits.seconds):
            found = RUN[stage](trial)
    except InputError as error:
        if loud:
            traceback.print_exc()
        several = "\n" in str(error) and "failed: a message of several lines: "
        return " ".join(f"{several or 'refused: '}{error}".split())
    except OutOfTimeError as error:
        return f"failed: not done after {limits.seconds} s of computing{place_of(error)}"
    except BaseException as error:  # noqa: BLE001  # that is what is looked for
        if loud:
            traceback.print_exc()
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return f"not tried: it takes more than {limits.gigabytes:g} GB"
        return f"failed: {in_words(error)}"
    return found or "ok"


def in_words(error: BaseException) -> str:
    """An error's kind, its first line and its place."""
    line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, WrongError):
        return line
    return f"{type(error).__name__}: {line[:300]}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """The last function of ours that was running."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/ghostify/" in frame.filename]
    if not own:
        return ""
    return f" ({own[-1].filename.rpartition('/ghostify/')[2]}, {own[-1].name})"


# The stages; each raises what it raises, or returns what is to be said beside "ok".


def run_count(trial: Trial) -> str:
    counted = count(trial.original, trial.shape)
    trial.found |= {"parameters": counted.params, "macs": counted.macs, "not_counted": " ".join(counted.unknown)}
    if not counted.macs:
        raise WrongError("it counts no multiply-adds")
    return ""


def run_convert(trial: Trial) -> str:
    found = convert(trial.original, input_shape=trial.shape)
    trial.changed["convert"] = checked(trial, found.model)
    trial.found |= {"replaced": found.replaced, "convolutions": len(found.layers)}
    return ""


def run_calibrated(trial: Trial) -> str:
    if "planned" in trial.changed:
        return AS_PLANNED
    found = convert(trial.original, calibration=[trial.images], cheap="pointwise", effort="fast")
    trial.changed["calibrated"] = checked(trial, found.model)
    return ""


def run_plan(trial: Trial) -> str:
    """A plan for most of the multiply-adds, or for half of what the network can lose."""
    asked: dict[str, Any] = {
        "example": trial.images[:1],
        "calibration": [trial.images],
        "measurements": trial.folder / "measured.json",
    }
    try:
        trial.plan = plan(trial.original, target_macs=SHARE, **asked)
    except InputError as error:
        _, _, least = str(error).partition("at least ")
        if not least or float(least.split()[0]) > 1 - 1e-3:
            raise
        trial.plan = plan(trial.original, target_macs=(1 + float(least.split()[0])) / 2, **asked)
    trial.found |= {"dropped": sum(layer.dropped for layer in trial.plan.values()), "share": f"{trial.plan.macs:.3f}"}
    return ""


def run_planned(trial: Trial) -> str:
    if trial.plan is None:
        return "not reached"
    try:
        found = convert(trial.original, plan=trial.plan, calibration=[trial.images], effort="fast")
    except InputError as error:
        raise WrongError(f"the plan that was made for it is refused: {error}") from error
    trial.changed["planned"] = checked(trial, found.model)
    after, before = (count(model, trial.shape).macs for model in (found.model, trial.original))
    if abs(after / before - trial.plan.macs) > 1e-6:
        raise WrongError(f"the plan is for {trial.plan.macs:.4f} of the multiply-adds, {after / before:.4f} are left")
    return ""


def run_deploy(trial: Trial) -> str:
    """Both with new depthwise ghosts, whose maps travel apart, and as planned."""
    stage, model = trial.last
    trial.found["of"] = stage
    for network in dict.fromkeys((trial.changed.get("convert", model), model)):
        trial.deployed = deployed_alike(network, trial.images)
    return ""


def run_export(trial: Trial) -> str:
    """As deployed; where the file gives something else, rounding may do as much to the network itself."""
    example, (_, model) = trial.images[:2], trial.last
    deployed = trial.deployed or deploy(model, example[:1])
    try:
        export(deployed, trial.folder / "network.onnx", example[:1], check=[example])
    except InputError as error:
        if "does not give what" not in str(error):
            raise
        rounding = rounding_of(model, deployed, example)
        if rounding > HALF_TOLERANCE:
            return f"not comparable: rounding in float32 alone changes its outputs by {rounding:.1e} of the largest"
        raise WrongError(str(error)) from error
    return ""


def run_save(trial: Trial) -> str:
    path, (_, model) = trial.folder / "network.safetensors", trial.last
    save(model, path)
    again = load(path)
    for x, y in zip(answers(model, trial.images[:2]), answers(again, trial.images[:2]), strict=True):
        if not torch.equal(x.nan_to_num(), y.nan_to_num()):
            raise WrongError("another function comes back from disk")
    return ""


RUN: dict[str, Callable[[Trial], str]] = {
    "count": run_count,
    "convert": run_convert,
    "calibrated": run_calibrated,
    "plan": run_plan,
    "planned": run_planned,
    "deploy": run_deploy,
    "export": run_export,
    "save": run_save,
}


@torch.no_grad()
def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that a network, or a detector's plain part, returns in eval mode."""
    network = model if isinstance(model, Deployed) else plain_part(model)
    return [leaf for leaf in tree_leaves(network.eval()(x.clone())) if isinstance(leaf, Tensor)]


def checked(trial: Trial, changed: nn.Module) -> nn.Module:
    """A changed network that gives finite numbers where the original does."""
    before, after = answers(trial.original, trial.images[:2]), answers(changed, trial.images[:2])
    for x, y in zip(before, after, strict=True):
        if x.shape != y.shape or (bool(x.isfinite().all()) and not bool(y.isfinite().all())):
            raise WrongError(f"the changed network gives other shapes, or infinite numbers: {tuple(y.shape)}")
    return changed


def deployed_alike(model: nn.Module, images: Tensor) -> Deployed:
    """Deploy a network and compare it, in float64 where rounding in float32 is large."""
    deployed = deploy(model, images[:1])
    if difference(model, deployed, images[:2]) <= TOLERANCE:
        return deployed
    wide = copy.deepcopy(model).double()
    apart = difference(wide, deploy(wide, images[:1].double()), images[:2].double())
    if not apart <= DOUBLE:
        raise WrongError(f"deployed it gives something else: outputs differ by {apart:.1e} of the largest")
    return deployed


def difference(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Largest difference of an output, over the largest of its kind."""
    pairs = list(zip(answers(model, x), answers(other, x), strict=True))
    return max(float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp_min(1e-30)) for a, b in pairs)


# The table.


def put_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row, or replace that of the same network; another process may do so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        rows = read_rows(path)
        places = [place for place, old in enumerate(rows) if key_of(old) == key_of(row)]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        write_rows(path, rows)
    finally:
        os.close(folder)


def key_of(row: dict[str, Any]) -> tuple[str, str]:
    return row["source"], row["network"]


def row_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((row for row in rows if ":".join(key_of(row)) == name), None)


def state_of_code() -> str:
    """The commit that last changed the code, with a + where it was changed since."""
    folder = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return (git("log", "-1", "--format=%h", "--", "src") or "unknown") + "+" * bool(git("status", "-s", "--", "src"))


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "torchvision", "timm", "onnxruntime")}


def warm_up() -> None:
    """Import once what each network's process would import anew."""
    for name in ("torch._dynamo", "torch.export", "torch.onnx._internal.exporter._core", "onnxscript", "onnx_ir"):
        import_module(name)


# The matrix.


def write_page(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put the matrix between the marks of a page."""
    before, _, rest = path.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    with replacing(path) as temporary:
        temporary.write_text(f"{before}{MARKS[0]}\n{matrix(rows)}{MARKS[1]}{after}")


def matrix(rows: list[dict[str, Any]]) -> str:
    """Markdown: shares by source and stage, what was refused or failed and why, and all networks."""
    tried_ones = [row for row in rows if not row["passed_over"]]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in tried_ones:
        groups.setdefault(f"{row['source']}, {row['kind']}", []).append(row)
    lines = ["", f"| | networks | {' | '.join(STAGES)} | all |", "|---" * (len(STAGES) + 3) + "|"]
    for group, members in groups.items():
        shares = [share_of(members, [stage]) for stage in STAGES]
        lines.append(f"| {group} | {len(members)} | {' | '.join(shares)} | {share_of(members, STAGES)} |")
    lines += ["", "## Refused or failed", "", "| stage | why | networks |", "|---|---|---|"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in tried_ones:
        for stage in STAGES:
            if row[stage].startswith(("refused", "failed", "not tried", "not comparable")):
                reasons.setdefault((stage, row[stage]), []).append(row["network"])
    for (stage, reason), names in sorted(reasons.items(), key=lambda item: (STAGES.index(item[0][0]), -len(item[1]))):
        lines.append(f"| {stage} | {reason.replace('|', '/')} | {', '.join(names)} |")
    lines += ["", "## All of them", ""]
    for group, members in groups.items():
        whole = [row["network"] for row in members if all(row[stage] in WELL for stage in STAGES)]
        partly = [f"{row['network']} ({missing(row)})" for row in members if row["network"] not in whole]
        lines += [f"**{group}: every stage** ({len(whole)}): {', '.join(whole) or 'none'}.", ""]
        if partly:
            lines += [f"**{group}: not every stage** ({len(partly)}): {', '.join(partly)}.", ""]
    passed: dict[str, list[str]] = {}
    for row in rows:
        if row["passed_over"]:
            passed.setdefault(row["passed_over"], []).append(row["network"])
    if passed:
        count_of = sum(map(len, passed.values()))
        lines += [f"**Passed over** ({count_of}), most of them as convolutions do little of their work:", ""]
        lines += [f"- {reason}: {', '.join(names)}" for reason, names in sorted(passed.items())] + [""]
    return "\n".join(lines)


def share_of(rows: list[dict[str, Any]], stages: Sequence[str]) -> str:
    """Share of the networks in which all of these stages ended well."""
    return f"{sum(all(row[stage] in WELL for stage in stages) for row in rows) / len(rows):.1%}"


def missing(row: dict[str, Any]) -> str:
    return ", ".join(f"{stage} {row[stage].partition(':')[0]}" for stage in STAGES if row[stage] not in WELL)


if __name__ == "__main__":
    main()
