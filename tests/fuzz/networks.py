"""Random networks through every verb: what comes back is what it should be, or one line says why not.

    python tests/fuzz/networks.py --count 500 --seed 0
    python tests/fuzz/networks.py --seed 17 --count 1 --loud

Each network has a process of its own and a bound on its computing. A failure is printed with its seed and with the
fewest blocks that still fail so; the exit status is 1 if there was any.
"""

import argparse
import copy
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch
from random_networks import drawn_parts, images
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ghostify import InputError, convert, count, create_model, deploy, export, load, plan, save
from ghostify.transform.changeable import SHARED
from ghostify.transform.convert import Conversion

FACTORY = "random_networks:factory"
SECONDS = 60  # of computing, each network
LONGEST = 400  # characters of a message
CALIBRATION = 32  # images
TARGET = 0.8  # share of the multiply-adds
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the largest output
LAYOUTS = 1e-5
# Once here, not in each network's process.
SLOW_IMPORTS = ("torch._dynamo", "torch.export", "torch.onnx._internal.exporter._core", "onnxscript", "onnx_ir")
IN_BFLOAT16 = 3e-2  # of a network with a part in it, which folding BatchNorm rounds otherwise


class OutOfTimeError(BaseException):
    """A network took longer than it may; no part of the code under test may catch it."""


@dataclass
class Case:
    """A network, and what is refused of it.

    Args:
        seed: Its seed.
        parts: What ``factory`` takes beside the seed; none: as the seed draws them.
        refused: Verb → line for the user.
        failed: Verb → what is wrong.
    """

    seed: int
    parts: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def build(self) -> nn.Module:
        return create_model(FACTORY, seed=self.seed, **self.parts)

    def images(self, number: int, *, larger: int = 0) -> Tensor:
        like = next(self.model.parameters())
        return images(self.seed, number, larger=larger).to(like.dtype)

    def check(self, *, exports: bool = True) -> None:
        """Take the network through every verb; torch.export, which takes longest, follows all copies of one in four.

        Args:
            exports: Also export the last copy.
        """
        self.model = self.build()
        self.x = self.images(2)
        self.calibration = [self.images(CALIBRATION)]
        shape = tuple(self.x.shape[1:])
        counted = self.step("count", lambda: count(self.model, shape))
        if counted is not None and not counted.macs:
            self.failed["count"] = "no multiply-adds"
        changed: dict[str, nn.Module] = {"original": self.model}
        ghosts = self.step("convert", lambda: convert(self.model, input_shape=shape), draws=True)
        if ghosts is not None:
            changed["convert"] = ghosts.model
            self.step("rows of convert", lambda: self.rows_agree(ghosts, shape, exactly=True))
        fitted = self.step(
            "calibrated",
            lambda: convert(self.model, calibration=self.calibration, cheap="pointwise", effort="fast"),
        )
        if fitted is not None:
            changed["calibrated"] = fitted.model
            self.step("rows of calibrated", lambda: self.rows_agree(fitted, shape, exactly=True))
        made = self.step("plan", self.planned)
        if made is not None:
            found = self.step(
                "convert by plan",
                lambda: convert(self.model, calibration=self.calibration, plan=made, effort="fast"),
                refusable=False,
            )
            if found is not None:
                changed["planned"] = found.model
                self.step("rows of plan", lambda: self.rows_agree(found, shape, exactly=False))
                self.step("multiply-adds of plan", lambda: self.as_planned(found.model, made, shape))
        last = list(changed)[-1]
        if self.seed % 4 == 0:
            for name in changed.keys() - {"calibrated", last}:
                self.step(f"deploy {name}", lambda name=name: self.deployed_alike(changed[name]))
        deployed = self.step(f"deploy {last}", lambda: self.deployed_alike(changed[last]))
        if exports:
            self.step(f"export {last}", lambda: self.exported_alike(changed[last], deployed))
        with TemporaryDirectory() as folder:
            for name, model in changed.items():
                path = Path(folder) / f"{name}.safetensors"
                self.step(f"save {name}", lambda model=model, path=path: save(model, path))
                if path.exists():
                    self.step(f"load {name}", lambda model=model, path=path: self.loaded_alike(model, path), draws=True)

    def step(self, verb: str, run: Callable[[], Any], *, draws: bool = False, refusable: bool = True) -> Any:
        """What a verb gives; None where it refuses or fails, and the network is given back as it was.

        Args:
            draws: It takes random numbers, so that the user's seed decides them.
            refusable: It may refuse: not what another verb has made.
        """
        before, drawn = state_of(self.model, self.x), torch.get_rng_state()
        try:
            return run()
        except InputError as error:
            line = str(error)
            if not line.isprintable() or len(line) > LONGEST:  # a line's end is not, nor is a terminal's colour
                self.failed[verb] = f"no plain line of at most {LONGEST} characters: {line[:LONGEST]!r}"
            elif not refusable:
                self.failed[verb] = f"refuses what the verb before made: {line}"
            else:
                self.refused[verb] = line
        except WrongError as error:
            self.failed[verb] = str(error)
        except Exception as error:  # noqa: BLE001  # that is what is looked for
            self.failed[verb] = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]} {place_of(error)}"
            if LOUD:
                traceback.print_exc()
        finally:
            if not draws and not torch.equal(drawn, torch.get_rng_state()):
                self.failed[f"random numbers of {verb}"] = "they were drawn from"
            if changed := differing(before, state_of(self.model, self.x)):
                self.failed[f"original after {verb}"] = changed
        return None

    def planned(self) -> Any:
        """A plan for most of the multiply-adds, or for half of what the network can lose."""
        asked: dict[str, Any] = {"example": self.x[:1], "calibration": self.calibration}
        try:
            return plan(self.model, target_macs=TARGET, **asked)
        except InputError as error:
            _, _, least = str(error).partition("at least ")
            if not least:
                raise
            return plan(self.model, target_macs=(1 + float(least.split()[0])) / 2, **asked)

    def rows_agree(self, found: Conversion, shape: tuple[int, ...], *, exactly: bool) -> None:
        """Layers that count as replaced run, and cost what the report says."""
        answer = answers(found.model, self.x)
        dead = all(torch.equal(output[0], output[1]) for output in answer)  # the same whatever the image is
        for row in found.layers:
            if dead or not row.replaced or row.change == "gone with its block":
                continue
            if not decides(found.model, row.name, self.x, answer) and decides(self.model, row.name, self.x):
                raise WrongError(f"{row.name} counts as replaced, but the outputs do not depend on it")
        if any(row.macs_before is None or row.macs_after is None for row in found.layers):
            raise WrongError("the shape is known, but the report has no multiply-adds")
        before, after = (count(model, shape) for model in (self.model, found.model))
        for row in found.layers:
            if row.reason == SHARED:  # the copy has no such module, and runs the network's own
                continue
            if after.of(row.name).macs != row.macs_after:
                raise WrongError(f"{row.name} costs {after.of(row.name).macs} by count, {row.macs_after} by the report")
        saved = sum((row.macs_before or 0) - (row.macs_after or 0) for row in found.layers)
        if exactly and before.macs - saved != after.macs:
            raise WrongError(f"{before.macs - saved} multiply-adds by the report, {after.macs} by count")

    def as_planned(self, changed: nn.Module, made: Any, shape: tuple[int, ...]) -> None:
        share = count(changed, shape).macs / count(self.model, shape).macs
        if abs(share - made.macs) > 1e-6:
            raise WrongError(f"the plan says {made.macs:.4f} of the multiply-adds, {share:.4f} are left")

    def deployed_alike(self, model: nn.Module) -> nn.Module:
        """The same function: for other batches, and for other sizes where it runs for them."""
        deployed = deploy(model, self.x[:1])
        self.refuse_other(model, deployed, self.images(3))
        larger = self.images(3, larger=2)
        try:
            answers(deployed, larger)
            answers(model, larger)
        except Exception:  # noqa: BLE001  # of sizes that the network, or its graph, does not take
            return deployed
        self.refuse_other(model, deployed, larger)
        return deployed

    def refuse_other(self, model: nn.Module, other: nn.Module, x: Tensor) -> None:
        compare(answers(model, x), answers(other, x), self.rounding(x.dtype), "deployed")

    def rounding(self, dtype: torch.dtype) -> float:
        blocks = self.parts.get("blocks", drawn_parts(self.seed)[0])
        return IN_BFLOAT16 if "autocast" in blocks else ROUNDING[dtype]

    def exported_alike(self, model: nn.Module, deployed: nn.Module | None) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export(deployed or model, path, self.x[:1], check=[self.x])
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            x = self.images(3)
            kind = {"tensor(float)": torch.float32, "tensor(double)": torch.float64}[session.get_inputs()[0].type]
            given = [torch.from_numpy(y) for y in session.run(None, {"images": x.to(kind).numpy()})]
        compare(answers(model, x), given, self.rounding(torch.float32), "the file")

    def loaded_alike(self, model: nn.Module, path: Path) -> None:
        again = load(path, factory=FACTORY)
        before, after = unwrapped(model).state_dict(), unwrapped(again).state_dict()
        if before.keys() != after.keys() or not all(alike(before[key], after[key]) for key in before):
            raise WrongError("other tensors come back from disk")
        if self.parts.get("around", drawn_parts(self.seed)[2]) == "channels last":
            # A file keeps no layout, and each has its own rounding.
            compare(answers(model, self.x), answers(again, self.x), LAYOUTS, "what comes back from disk")
        elif not all(map(alike, answers(model, self.x), answers(again, self.x))):
            raise WrongError("another function comes back from disk")


class WrongError(Exception):
    """A verb ended, but with a wrong result."""


def unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.DataParallel) else model


@torch.no_grad()
def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that a network returns in eval mode; it is given back in the modes that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return [leaf.clone() for leaf in tree_leaves(model(x.clone())) if isinstance(leaf, Tensor)]
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def decides(model: nn.Module, name: str, x: Tensor, before: list[Tensor] | None = None) -> bool:
    """True if a network's outputs change where the weights of a module do."""
    before, trial = before or answers(model, x), copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in trial.get_submodule(name).parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.add_(noise * (1 + parameter.std(correction=0)))
    return not all(map(alike, before, answers(trial, x)))


def alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


def compare(before: Sequence[Tensor], after: Sequence[Tensor], rounding: float, what: str) -> None:
    if [a.shape for a in before] != [b.shape for b in after]:
        raise WrongError(f"{what} gives {[tuple(b.shape) for b in after]} for {[tuple(a.shape) for a in before]}")
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        apart = float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp_min(1e-30))
        if not apart <= rounding:
            raise WrongError(f"output {index} of {what} differs by {apart:.1e} of the largest")


def state_of(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Everything of a network that a verb must leave as it is."""
    drawn = torch.get_rng_state()
    found: dict[str, Any] = {f"tensor {name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        found[f"mode of {name}"] = module.training
        found[f"attributes of {name}"] = sorted(vars(module))
        found[f"hooks of {name}"] = len(module._forward_hooks), len(module._forward_pre_hooks)
        found[f"class of {name}"] = type(module)
    for name, parameter in model.named_parameters():
        found[f"learning of {name}"] = parameter.requires_grad
        found[f"gradient of {name}"] = parameter.grad is None
    found |= {f"output {index}": output for index, output in enumerate(answers(model, x))}
    torch.set_rng_state(drawn)
    return found


def differing(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first things that are other than before."""
    names = [
        name
        for name in before.keys() | after.keys()
        if not (
            alike(before[name], after[name])
            if isinstance(before.get(name), Tensor) and isinstance(after.get(name), Tensor)
            else before.get(name) == after.get(name)
        )
    ]
    return f"changed: {', '.join(sorted(names)[:5])}" if names else ""


def place_of(error: BaseException) -> str:
    """The last function of ours that was running."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/ghostify/" in frame.filename]
    return f"({own[-1].filename.rpartition('/ghostify/')[2]}, {own[-1].name})" if own else ""


# Each in a process of its own.

LOUD = False


@contextmanager
def bounded(case: Case, seconds: int) -> Iterator[None]:
    """End what computes longer, and say where it was."""

    def out_of_time(number: int, frame: Any) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGPROF, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except OutOfTimeError as error:
        case.failed["time"] = f"not done after {seconds} s of computing {place_of(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def checked(case: Case) -> Case:
    """A case that went through every verb, in a process of its own."""
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=in_process, args=(case, there))
    process.start()
    there.close()
    try:
        if not here.poll(6 * SECONDS):  # longer than computing, as others may compute on the same cores
            case.failed["time"] = "it hangs"
            return case
        case.refused, case.failed = here.recv()
    except EOFError:
        process.join()
        case.failed["process"] = f"it died with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return case


def in_process(case: Case, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    if not LOUD:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
    with bounded(case, SECONDS):
        case.check()
    pipe.send((case.refused, case.failed))


def fewest_blocks(case: Case) -> Case:
    """The case with as few parts as still fail at the same verb by the same kind of error."""
    blocks, head, around = drawn_parts(case.seed)
    failures = {(verb, line.partition(":")[0]) for verb, line in case.failed.items()}

    def fails(**parts: Any) -> bool:
        found = checked(Case(case.seed, parts)).failed
        return any((verb, line.partition(":")[0]) in failures for verb, line in found.items())

    parts: dict[str, Any] = {"blocks": blocks, "head": head, "around": around}
    for name in blocks:
        fewer = [block for block in parts["blocks"] if block != name]
        if fails(**parts | {"blocks": fewer}):
            parts["blocks"] = fewer
    for simpler in ({"around": "nothing"}, {"head": "classifier"}):
        if parts != parts | simpler and fails(**parts | simpler):
            parts |= simpler
    return Case(case.seed, parts)


def main() -> None:
    global LOUD
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--loud", action="store_true", help="tracebacks, and what was refused")
    parser.add_argument("--no-shrink", action="store_true", help="leave the failing networks as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in SLOW_IMPORTS:
        import_module(name)
    LOUD = arguments.loud
    failed, refusals = 0, Counter[str]()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        case = checked(Case(seed))
        refusals.update(case.refused.keys())
        if LOUD:
            print(seed, *drawn_parts(seed), *(f"\n  refused: {v}: {line}" for v, line in case.refused.items()))
        if not case.failed:
            continue
        failed += 1
        print(f"seed {seed}: {drawn_parts(seed)}")
        for verb, line in case.failed.items():
            print(f"  {verb}: {line}")
        if not arguments.no_shrink:
            print(f"  already with {fewest_blocks(case).parts}")
        sys.stdout.flush()
    print(f"{failed} of {arguments.count} networks failed; refused in a line: {dict(refusals) or 'nothing'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
