"""Cases, each in a process of its own, within some minutes: those that fit, side by side where that is faster.

How long a case takes is known from its first seconds, in which it has the machine for itself. Whether several at a time
are faster is measured: the pace of each beside the others over its pace alone, summed up.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from rows import read_rows, write_rows

from ghostify.errors import InputError, first_sentence
from ghostify.inference.worker import resident_mb

PROBE = 2.0  # seconds from which a pace is read
GAIN = 1.03  # times the throughput that one more beside the others must bring
MEMORY = 1.25  # times what the largest case took must be free for one more
CONTEXT_MB = 600  # that CUDA itself takes of a GPU for a process
OFTEN = 0.05  # seconds between two things told
STARTING = 6  # at a time: they need the processor, too
GRACE = 10.0  # seconds for a case to end by itself
DONE, LEFT_OUT, FAILED = "done", "left out", "failed"
INTERRUPTED = "it was interrupted"


class Tell:
    """Tells how far a case is, and hears when it is to wait, to go on, and to end.

    Args:
        pipe: To the process that started this one.
        warm: First steps, which say nothing of the pace.
    """

    def __init__(self, pipe: Connection, warm: int) -> None:
        self.pipe, self.warm, self.waits, self.last = pipe, warm, True, 0.0

    def step(self, done: float, total: float) -> None:
        """So much is done of so much; 0 where that is not known yet. The first time it waits until it is to go."""
        if self.warm > 0:
            self.warm -= 1
            return
        now = time.monotonic()
        if self.waits or now - self.last > OFTEN or done == total:
            self.last = now
            self.pipe.send(("step", Step(now, done, total, *memory_mb())))
        while self.waits or self.pipe.poll():
            word = self.pipe.recv()
            if word == "stop":
                raise SystemExit
            self.waits = word == "wait"

    def rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Results, which are written at once; a row with the same ``part`` of this case is replaced."""
        self.pipe.send(("rows", (table, rows)))


@dataclass(frozen=True)
class Step:
    """How far a case is.

    Args:
        at: The clock, seconds.
        done, total: Of its own measure; a total of 0 is not known yet.
        taken_mb: The most memory that it took, of the GPU's where it uses one.
        free_mb: Memory that is free.
    """

    at: float
    done: float
    total: float
    taken_mb: float
    free_mb: float


@dataclass(frozen=True)
class Case:
    """Work with results.

    Args:
        name: Its name.
        run: Does it and tells.
        shares: It may run beside others; else it has the machine for itself.
        warm: Its first steps, which say nothing of its pace.
        probe: So many steps say it.
    """

    name: str
    run: Callable[[Tell], None]
    shares: bool = False
    warm: int = 0
    probe: int = 1


@dataclass
class Running:
    """A case in its process.

    Attributes:
        steps: Told since it last began to go.
        rate: What it does in a second alone; 0 until that is known.
        estimate: Seconds from its start to its end, as foreseen when it was let go.
        beside: How many went then, itself among them.
        why: The reason for which it was stopped, or failed.
    """

    case: Case
    process: Any
    pipe: Connection
    began: float
    steps: list[Step] = field(default_factory=list)
    rate: float = 0.0
    estimate: float | None = None
    beside: int = 1
    state: str = ""
    why: str = ""
    goes: bool = False

    def say(self, word: str) -> None:
        """Let it wait, go or stop at its next step."""
        if word == "go":
            self.read_anew(time.monotonic() if not self.goes else None)
        self.goes = word == "go"
        with suppress(OSError):  # it has ended
            self.pipe.send(word)

    def read_anew(self, since: float | None = None) -> None:
        """Read its pace from its last step on, or from some moment."""
        self.steps = [replace(step, at=since or step.at) for step in self.steps[-1:]]

    @property
    def probed(self) -> bool:
        """True once its steps say how fast it goes."""
        first, last = self.steps[0], self.steps[-1]
        return len(self.steps) > self.case.probe and last.total > 0 and last.at - first.at >= PROBE

    @property
    def pace(self) -> float:
        """What it does in a second."""
        first, last = self.steps[0], self.steps[-1]
        return (last.done - first.done) / max(1e-9, last.at - first.at)

    @property
    def left(self) -> float:
        """Seconds that the rest takes alone."""
        return max(0.0, self.steps[-1].total - self.steps[-1].done) / max(1e-9, self.rate)


class Machine:
    """Runs cases until their time is over.

    Args:
        folder: Gets ``cases.csv``, which says what became of each, and a table for each kind of result.
        seconds: For all of them, their ends included.
        together: Lets processes share the machine meanwhile, and says by what.
        partly: Begin also what cannot end in time, for a later call to go on with.
        afresh: Start each process from nothing, as a GPU needs it; else by a fork of one that has imported PyTorch.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        together: Callable[[], AbstractContextManager[str]],
        *,
        partly: bool = False,
        afresh: bool,
    ) -> None:
        self.folder, self.together, self.partly, self.shared_by = folder, together, partly, ""
        self.deadline = time.monotonic() + seconds - GRACE
        self.context: Any = multiprocessing.get_context("spawn" if afresh else "forkserver")
        if not afresh:
            self.context.set_forkserver_preload(["gpu_cases"])
        self.live: list[Running] = []
        self.measured = {1: 1.0}  # throughput of so many, in cases alone

    @property
    def left(self) -> float:
        """Seconds until all are stopped."""
        return self.deadline - time.monotonic()

    def run(self, cases: Sequence[Case]) -> None:
        """Run those that are not done yet, in their order; those that failed before at the end."""
        states = {row["case"]: row["state"] for row in read_rows(self.folder / "cases.csv")}
        wanted = [case for case in cases if states.get(case.name) != DONE]
        wanted.sort(key=lambda case: states.get(case.name) == FAILED)
        try:
            for shares, group in groupby(wanted, lambda case: case.shares):
                with self.together() if shares else nullcontext("") as self.shared_by:
                    self.run_group(list(group), len(os.sched_getaffinity(0)) if shares else 1)
        finally:
            self.stop(list(self.live), INTERRUPTED)

    def run_group(self, waiting: list[Case], most: int) -> None:
        """Run cases beside each other, at most so many, where that pays."""
        self.measured = {1: 1.0}
        while waiting or self.live:
            if self.left <= 0:
                self.stop(list(self.live), "it was not done when the time was over")
                for case in waiting:
                    self.put(case.name, LEFT_OUT, "no time was left to begin")
                return
            held = any(one.rate and not one.goes for one in self.live)
            while waiting and len(self.live) < most and not held and self.has_memory():
                self.start(waiting.pop(0))
            ready = [one for one in self.live if one.steps and not one.goes]
            if ready and ready[0].rate:  # it waits for another to end
                self.decide(ready[0])
            elif ready:
                self.admit(ready[0])
            self.pump()

    def has_memory(self) -> bool:
        """True if there is room for one more; how much one takes is first seen of one alone."""
        told = [one.steps[-1] for one in self.live if one.steps]
        if not told:
            return not self.live
        starting = sum(not one.steps for one in self.live)
        wanted = MEMORY * max(step.taken_mb for step in told) * (starting + 1)
        return starting < STARTING and wanted <= min(step.free_mb for step in told)

    def start(self, case: Case) -> None:
        """Begin a case in a process."""
        here, there = self.context.Pipe()
        process, began = self.context.Process(target=in_process, args=(case, there)), time.monotonic()
        process.start()
        there.close()
        self.live.append(Running(case, process, here, began))

    def admit(self, new: Running) -> None:
        """Measure a case alone and then beside the others; it goes on where it pays, waits, or is left out."""
        others = [one for one in self.live if one.goes]
        for one in others:
            one.say("wait")
        new.say("go")
        self.pump_until(lambda: new.probed or new not in self.live)
        if new in self.live and new.probed:
            new.rate = new.pace
            if not self.partly and new.left > self.left:
                self.leave_out(new)
        for one in others:
            one.say("go")
        if new not in self.live or not new.rate:
            return
        if others:
            new.read_anew()
            together = [*others, new]
            self.pump_until(lambda: all(one.probed or one not in self.live for one in together))
            if all(one in self.live and one.probed for one in together):
                self.measured[len(together)] = sum(one.pace / one.rate for one in together)
        if new in self.live:
            self.decide(new)

    def decide(self, new: Running) -> None:
        """Let a case go, wait for another to end, or leave it out."""
        if not self.in_time(new):
            self.leave_out(new)
        elif self.faster(new):
            self.let_go(new)
        elif new.goes:
            new.say("wait")

    def faster(self, new: Running) -> bool:
        """True if one more beside those that go is faster than one after the other."""
        going = sum(one.goes for one in self.live if one is not new)
        return not going or self.throughput(going + 1) >= GAIN * self.throughput(going)

    def in_time(self, new: Running) -> bool:
        """True if with one more all that go end in time."""
        going = [one.left for one in self.live if one.goes and one is not new]
        return self.partly or max(ends([*going, new.left], self.throughput)) <= self.left

    def throughput(self, number: int) -> float:
        """Of so many beside each other, in cases alone; of more than were measured that of the most that were."""
        return max(found for several, found in self.measured.items() if several <= number)

    def let_go(self, one: Running) -> None:
        """Let a case go on to its end, and foresee that."""
        if not one.goes:
            one.say("go")
        going = [other for other in self.live if other.goes and other is not one]
        if one.estimate is None:
            end = ends([other.left for other in (*going, one)], self.throughput)[-1]
            one.estimate, one.beside = time.monotonic() - one.began + end, len(going) + 1

    def leave_out(self, one: Running) -> None:
        """Stop a case that would end too late, or make others late."""
        others = sum(other.goes for other in self.live if other is not one)
        one.estimate = time.monotonic() - one.began + one.left
        beside = f" alone, beside {others} others," if others else ""
        self.stop([one], f"it would take {one.left:.0f} s more{beside} and {self.left:.0f} s were left")

    def pump_until(self, known: Callable[[], bool]) -> None:
        """Hear what is told until something is known, or the time is over."""
        while not known() and self.left > 0:
            self.pump()

    def pump(self) -> None:
        """Hear what is told."""
        for pipe in wait([one.pipe for one in self.live], 0.2):
            one = next(one for one in self.live if one.pipe is pipe)
            try:
                kind, told = one.pipe.recv()
            except (EOFError, OSError):
                self.bury(one)
                continue
            if kind == "step":
                one.steps.append(told)
            elif kind == "rows":
                self.write(one.case.name, *told)
            else:
                one.state, one.why = told

    def stop(self, ones: Sequence[Running], why: str) -> None:
        """End cases, by themselves at their next step where they come to it in time."""
        for one in ones:
            one.state, one.why = LEFT_OUT, why
            one.say("stop")
        until = time.monotonic() + GRACE
        while any(one in self.live for one in ones) and time.monotonic() < until:
            self.pump()
        for one in ones:
            if one in self.live:
                one.process.kill()
                self.bury(one)

    def bury(self, one: Running) -> None:
        """Write what became of a case whose process has ended, or is to end now."""
        one.process.join(GRACE)
        one.process.kill()
        one.process.join()
        self.live.remove(one)
        state = one.state or FAILED
        why = one.why if one.state else f"its process ended with {one.process.exitcode}"
        self.put(one.case.name, state, why, one)

    def put(self, name: str, state: str, why: str = "", one: Running | None = None) -> None:
        """Write what became of a case."""
        estimate = None if one is None else one.estimate
        row = {
            "case": name,
            "state": state,
            "why": why,
            "estimated_s": "" if estimate is None else f"{estimate:.1f}",
            "seconds": "" if one is None else f"{time.monotonic() - one.began:.1f}",
            "beside": "" if one is None else one.beside,
            "throughput": "" if one is None else f"{self.throughput(one.beside):.2f}",
            "memory_mb": f"{one.steps[-1].taken_mb:.0f}" if one is not None and one.steps else "",
            "shared_by": self.shared_by,
        }
        path = self.folder / "cases.csv"
        write_rows(path, [*(other for other in read_rows(path) if other["case"] != name), row])
        print(f"{name}: {state}", *([why] if why else []), f"{self.left:.0f} s left", sep=", ", flush=True)

    def write(self, name: str, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write results, in the place of those with the same ``part``."""
        path, new = self.folder / f"{table}.csv", {str(row["part"]) for row in rows}
        kept = [row for row in read_rows(path) if row["case"] != name or row["part"] not in new]
        write_rows(path, [*kept, *({"case": name, **row} for row in rows)])


def in_process(case: Case, pipe: Connection) -> None:
    """Do a case's work; what became of it goes through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is the parent's
    threading.Thread(target=end_with_parent, daemon=True).start()
    if case.shares:
        torch.set_num_threads(1)
    try:
        case.run(Tell(pipe, case.warm))
    except Exception as error:  # noqa: BLE001  # whatever the work raises is said in the table, and the next case begins
        if not isinstance(error, InputError):
            traceback.print_exc()
        pipe.send(("end", (FAILED, first_sentence(error))))
    else:
        pipe.send(("end", (DONE, "")))


def end_with_parent() -> None:
    """End at once where the process that started this one is killed: the next call does the same work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def memory_mb() -> tuple[float, float]:
    """The most that this process took, and what is free: of the GPU's memory where it uses that."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 1e6 + CONTEXT_MB, torch.cuda.mem_get_info()[0] / 1e6
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return resident_mb("VmHWM"), int(line.split()[1]) * 1024 / 1e6


def ends(seconds: Sequence[float], throughput: Callable[[int], float]) -> list[float]:
    """When each of some cases ends that begin together and get equal shares of the machine.

    Args:
        seconds: What each takes alone.
        throughput: Of so many at a time, over that of one.
    Example:
        >>> ends([3, 1], lambda number: 1), ends([3, 1], lambda number: number)
        ([4.0, 2.0], [3.0, 1.0])
    """
    found, now, done = [0.0] * len(seconds), 0.0, 0.0
    for place, index in enumerate(sorted(range(len(seconds)), key=seconds.__getitem__)):
        still = len(seconds) - place
        now += (seconds[index] - done) * still / throughput(still)
        done, found[index] = seconds[index], now
    return found
