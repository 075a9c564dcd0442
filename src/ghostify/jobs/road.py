"""The steps of a run, one after the other: look, train, plan, convert, tune, export, measure, report."""

import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.atomic import check_writable, nearest_there, replacing
from ghostify.changes.ratio import GhostRatio
from ghostify.errors import InputError, OutOfReachError
from ghostify.inference.engines import FILE_ENGINES, FileRunner
from ghostify.inference.explain import Explanation, explain
from ghostify.inference.export import ENGINE as ENGINE_OF
from ghostify.inference.export import FORMATS, SUFFIX, export
from ghostify.inference.file_network import FileNetwork
from ghostify.inference.quantize import MOST, Int8
from ghostify.jobs.accuracy import AllowedDrop, plan_for_accuracy
from ghostify.jobs.findings import Made, findings
from ghostify.jobs.forecast import Speeds, forecast, in_words, seconds_per_image
from ghostify.jobs.images_of_run import Answers, Data
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.report import write_report
from ghostify.jobs.rivals import RIVALS, Start
from ghostify.jobs.row import Kind, Row, row_of, timed
from ghostify.jobs.run_settings import METRICS, NETWORK, PLAN, REPORT, RESULTS, STEPS, RunSettings, refuse_finished
from ghostify.jobs.steps import ABOUT, Steps
from ghostify.jobs.tune import TuningSettings, tune
from ghostify.measure.count import count
from ghostify.measure.environment import describe_environment, disturbance
from ghostify.models.registry import known_origin
from ghostify.needed import is_installed
from ghostify.network_file import load, save
from ghostify.plain_part import plain_part
from ghostify.planning import convert, plan
from ghostify.planning.measurements import fingerprint
from ghostify.planning.plan_file import Plan, read_plan, write_plan
from ghostify.progress import Progress
from ghostify.transform.changeable import commonest_reasons, may_be_fitted, reasons_to_leave

ENGINE, ORIGINAL, MEASUREMENTS, SECONDS = "engine.json", "original", "measurements.jsonl", "seconds.json"
FORMAT_OF = {ENGINE_OF[kind]: kind for kind in FORMATS}
CHECKED = 200  # images that a file is checked with
CALLS = 30  # that choose an engine
DISK = 12  # times the weights' bytes that a run writes


@dataclass(frozen=True)
class Run:
    """The result of a run.

    Args:
        model: The faster network, in float32 on the CPU: to train on, to save. Of a sweep the fastest one.
        files: The files for the engine, the network's first; of a sweep one for each speed.
        table: Every network that was scored and timed, the original first.
        report: The page that shows it.
        findings: The result in sentences.
        metrics: All figures as JSON values, as in ``metrics.json``.
    """

    model: nn.Module
    files: tuple[Path, ...]
    table: tuple[Row, ...]
    report: Path
    findings: tuple[str, ...]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Road:
    """A run, see ``run``."""

    given: nn.Module
    data: Data
    settings: RunSettings
    out: Path
    progress: Progress | None
    tell: Callable[[str], None] | None

    def go(self) -> Run:
        self.refuse_early()
        engine, speeds = self.engine
        expected = self.announce(speeds)
        with self.step("train", expected, self.steps.path(f"{ORIGINAL}.safetensors")):
            original = self.original
        rows = self.original_rows(original)
        made: list[Made] = []
        for target in self.settings.speeds or (None,):
            try:
                made.append(self.made_for(target, original, expected))
            except OutOfReachError as error:
                if not made:
                    raise
                self.say(f"{target:g} times as fast: {error}")
                break  # what is faster is out of reach, too
            rows += self.rows_of_made(made[-1])
        if self.settings.rivals:
            rows += self.rival_rows(original, made[0], rows)
        return self.report(original, made, rows, engine)

    def say(self, text: str) -> None:
        if self.tell:
            self.tell(text)

    @contextmanager
    def step(self, name: str, expected: dict[str, float], made: Path | None = None) -> Iterator[None]:
        """Say which step begins, and how long it and the rest take; and write down how long it took, in all calls.

        Args:
            made: The file with the step's result: nothing is said where it is there from an earlier call.
        """
        if name not in expected or (made is not None and made.exists()):
            yield
            return
        names = list(expected)
        rest = sum(seconds for other, seconds in expected.items() if names.index(other) >= names.index(name))
        share = expected[name] / max(1, len(self.settings.speeds))
        self.say(f"{name}: about {in_words(share)}, in all about {in_words(rest)} left")
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.seconds
            self.steps.write(SECONDS, seconds | {name: seconds.get(name, 0.0) + time.perf_counter() - started})

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each step took, in this call and earlier ones."""
        found: dict[str, float] = self.steps.values(SECONDS, dict)
        return found

    # Looking first.

    def refuse_early(self) -> None:
        """Refuse in seconds what would be refused after minutes."""
        refuse_finished(self.out, (self.out / STEPS / ABOUT).exists())
        reasons = reasons_to_leave(plain_part(self.given), GhostRatio(), self.settings.skip, self.example)
        if not any(map(may_be_fitted, reasons.values())):
            why = commonest_reasons(list(reasons.values())) if reasons else "it has none"
            raise InputError(f"no convolution of {type(self.given).__name__} can be made cheaper: {why}")
        try:
            check_writable(self.out, *RESULTS)
        except OSError as error:
            raise InputError(f"{error.filename or self.out}: {error.strerror}") from error
        needed = DISK * sum(t.numel() * t.element_size() for t in self.given.state_dict().values())
        free = shutil.disk_usage(nearest_there(self.out)).free
        if free < needed:
            raise InputError(f"{self.out}: {free / 1e9:.1f} GB are free, a run writes some {needed / 1e9:.1f} GB")

    @cached_property
    def steps(self) -> Steps:
        images = self.data.images
        about = self.settings.as_json() | {"data": images.name, **images.identity}
        about |= {"first image": fingerprint([("", self.data.first[0])])}
        return Steps(self.out / STEPS, about | {"network": fingerprint(self.given.state_dict().items())})

    @property
    def name(self) -> str:
        """The network's name, as far as it is known."""
        origin = known_origin(self.given)
        return type(self.given).__name__ if origin is None else origin.name

    @cached_property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.data.shape)

    @cached_property
    def engine(self) -> tuple[str, Speeds]:
        """The engine that is asked for, or the fastest that runs the network, and how fast things are."""
        row = self.steps.values(ENGINE, self.try_engines)
        return row["engine"], Speeds(row["run"], row["file"], row["ms"][row["engine"]] / 1e3)

    def try_engines(self) -> dict[str, Any]:
        wanted = self.settings.engine
        names = [name for name in FILE_ENGINES if is_installed(name)] if wanted is None else [wanted]
        ms: dict[str, float] = {}
        refusals: dict[str, str] = {}
        seconds = math.inf  # the least of two: the first file has the exporter imported
        for number, name in enumerate([*names, *names][:2]):
            if self.progress:
                self.progress("look", name, number, 2)
            try:
                started = time.perf_counter()
                file = self.steps.path(f"look, {number}{SUFFIX[FORMAT_OF[name]]}")
                self.exported(self.given, file, name)
                with FileRunner(file, name, self.example, threads=self.settings.threads) as runner:
                    ms[name] = median(runner.times_ms(CALLS))
                seconds = min(seconds, time.perf_counter() - started)
            except InputError as error:
                refusals[name] = str(error)
        if not ms:
            raise InputError("; ".join(f"{name}: {why}" for name, why in refusals.items()))
        run = seconds_per_image(plain_part(self.given), self.example)
        return {"engine": min(ms, key=ms.__getitem__), "ms": ms, "run": run, "file": seconds, "refusals": refusals}

    def announce(self, speeds: Speeds) -> dict[str, float]:
        """Say what is there, and what will be done."""
        engine, (images, settings) = self.engine[0], (self.data.images, self.settings)
        macs, shape = count(self.given, self.data.shape), "×".join(map(str, self.data.shape))
        train, held_out, test = self.data.sizes
        self.say(
            f"{self.name}: {macs.params / 1e6:.2f} M weights, {macs.macs / 1e6:.1f} M multiply-adds "
            f"for {shape}; {images.name}: {train:,} images to learn from, {held_out:,} held out, {test:,} to judge by"
        )
        row = self.steps.read(ENGINE)
        others = [f"{name} {ms:.2f} ms" for name, ms in row["ms"].items() if name != engine]
        others += [f"{name} cannot run it" for name in row["refusals"]]
        of = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
        self.say(f"{engine}: {1e3 * speeds.call:.2f} ms for an image with {of}" + "".join(f"; {one}" for one in others))
        networks: dict[Kind, int] = {"original": 1, "ours": len(settings.speeds or (None,))}
        networks["rival"] = len(RIVALS) if settings.rivals else 0
        rows = sum(number * len(self.precisions(kind)) for kind, number in networks.items())
        expected = forecast(self.given, macs.macs, speeds, self.data.sizes, settings, rows)
        if not (self.out / METRICS).exists():  # else all is there, and this call shows it again
            steps = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in expected.items())
            self.say(f"about {in_words(sum(expected.values()))} on this machine: {steps}")
        return expected

    # The original.

    @cached_property
    def original(self) -> nn.Module:
        """The original; where it is not trained, trained first."""
        if self.settings.recipe is None:
            return self.given

        def trained() -> nn.Module:
            assert self.settings.recipe is not None
            model = copy.deepcopy(self.given)
            options = RunOptions(
                self.settings.device, self.settings.workers, self.steps.path(f"{ORIGINAL}.checkpoint"), resume=True
            )
            self.data.learn(model, self.settings.recipe, None, options, self.progress)
            return model

        return self.steps.weights(f"{ORIGINAL}.safetensors", trained, lambda: copy.deepcopy(self.given))

    def original_rows(self, original: nn.Module) -> list[Row]:
        return self.rows_of(ORIGINAL, "original", original, self.steps.path(ORIGINAL))

    @cached_property
    def answers_of_original(self) -> Answers:
        return self.answers(self.file_of(self.steps.path(ORIGINAL), int8=False))

    # A network for a speed.

    def made_for(self, target: float | None, original: nn.Module, expected: dict[str, float]) -> Made:
        """Plan, convert and tune for a speed; for the accuracy drop where there is none."""
        name = "for the drop" if target is None else f"{target:g}"
        with self.step("plan", expected, self.steps.path(f"plan {name}.json")):
            planned = self.planned(name, target, original)
        file = self.steps.path(f"converted {name}.safetensors")
        with self.step("convert", expected, file):
            converted = partial(copy.deepcopy, kept_network(file, lambda: self.converted(original, planned)))
        model, told = converted(), None
        changed = any(layer.changes for layer in planned.values())
        if not changed:
            self.say(f"as fast as asked {'in int8 ' if self.settings.int8 else ''}without any change: nothing to learn")
        elif not self.settings.tune.none:
            with self.step("tune", expected, self.steps.path(f"tuned {name}.safetensors")):
                model, told = self.tuned(converted, original, f"tuned {name}")
        folder = self.out / f"speed-{target:g}" if self.settings.sweep else self.out
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(planned, folder / PLAN)
        title = "planned for the drop" if target is None else f"planned {target:g}×"
        return Made(title, name, model, planned, folder, told, saved(model, folder / NETWORK, self.data.preprocessing))

    def planned(self, name: str, target: float | None, original: nn.Module) -> Plan:
        path = self.steps.path(f"plan {name}.json")
        if not path.exists():
            write_plan(self.plan_for(target, original), path)
        return read_plan(path)

    def plan_for(self, target: float | None, original: nn.Module) -> Plan:
        settings, engine = self.settings, self.engine[0]
        model = copy.deepcopy(original).to(settings.device)
        batches, example = self.calibration, self.example.to(settings.device)

        def for_speed(speed: float) -> Plan:
            return plan(
                model,
                example=example,
                calibration=batches,
                target_speedup=speed,
                engine=engine,
                threads=settings.threads,
                int8=settings.int8,
                skip=settings.skip,
                measurements=self.steps.path(MEASUREMENTS),
                seed=settings.seed,
                progress=self.progress,
            )

        if target is not None:
            return for_speed(target)
        assert settings.max_accuracy_drop is not None
        allowed = AllowedDrop(settings.max_accuracy_drop, "fast", settings.seed)
        score = partial(self.data.held_out_score, device=settings.device, workers=settings.workers)
        return plan_for_accuracy(model, score, batches, for_speed, allowed, progress=self.progress)[0]

    def converted(self, original: nn.Module, planned: Plan) -> nn.Module:
        settings = self.settings
        model = copy.deepcopy(original).to(settings.device)
        return convert(
            model,
            calibration=self.calibration,
            plan=planned,
            effort=settings.effort,
            seed=settings.seed,
            progress=self.progress,
        ).model.cpu()

    def tuned(
        self, network: Callable[[], nn.Module], original: nn.Module, name: str
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The network after it has learnt, or as it was where that is better; and how it was tuned."""
        settings = self.settings
        how = TuningSettings(settings.tune, settings.labels, settings.device, settings.workers, settings.seed)

        def learnt() -> nn.Module:
            with self.seeded():
                model, told = tune(network, original, self.data, how, self.steps, name, self.progress)
            self.steps.write(f"{name}.json", told)
            return model

        model = self.steps.weights(f"{name}.safetensors", learnt, network)
        return model, self.steps.read(f"{name}.json")

    @cached_property
    def calibration(self) -> list[Any]:
        """Training images as the network gets them, without labels, on the device."""
        settings = self.settings
        with self.seeded():
            return self.data.inputs(settings.images, settings.seed, settings.workers, settings.device)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Random crops of images that are the same in every call."""
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(self.settings.seed)
            yield

    # Files, scores and times.

    def rows_of_made(self, made: Made) -> list[Row]:
        in_fp32 = self.steps.path(f"planned {made.key}")
        return self.rows_of(made.title, "ours", made.model, made.folder / "network", in_fp32)

    def rows_of(self, title: str, kind: Kind, model: nn.Module, path: Path, in_fp32: Path | None = None) -> list[Row]:
        """The rows of a network: in float32, and where that is asked for in int8.

        Args:
            path: Path of its file without suffix.
            in_fp32: That of the file in float32 beside one in int8, where another is asked for.
        """
        rows = []
        for precision in self.precisions(kind):
            own = in_fp32 if self.settings.int8 and precision == "fp32" and in_fp32 is not None else path
            place = own.relative_to(self.out).as_posix().replace("/", " ")
            measure = partial(self.measured, title, kind, model, own, precision)
            # A file that somebody removed is written again, and is the same.
            self.exported(model, self.file_of(own, precision == "int8"), self.engine[0], int8=precision == "int8")
            rows.append(Row(**self.steps.values(f"row of {place}, {precision}.json", measure)))
        return rows

    def precisions(self, kind: Kind) -> tuple[str, ...]:
        """Those in which a network is scored and timed; int8 alone, and ours in it, are rivals that everybody has."""
        also = self.settings.rivals and kind != "rival" and is_installed(self.engine[0], "int8")
        return ("fp32", "int8") if self.settings.int8 or also else ("fp32",)

    def measured(self, title: str, kind: Kind, model: nn.Module, path: Path, precision: str) -> dict[str, Any]:
        file = self.file_of(path, precision == "int8")
        answers = self.answers_of_original if (title, precision) == (ORIGINAL, "fp32") else self.answers(file)
        times = timed(
            self.file_of(self.steps.path(ORIGINAL), int8=False),
            file,
            self.example,
            self.engine[0],
            self.settings.threads,
        )
        counted = count(model, self.data.shape)
        rest = {"name": title, "kind": kind, "precision": precision, "macs": counted.macs, "params": counted.params}
        return asdict(row_of(self.out, file, answers, self.answers_of_original, times, **rest))

    def file_of(self, path: Path, int8: bool) -> Path:
        return path.with_name(f"{path.name}{'.int8' if int8 else ''}{SUFFIX[FORMAT_OF[self.engine[0]]]}")

    def exported(self, model: nn.Module, path: Path, engine: str, *, int8: bool = False) -> Path:
        """The network's file, written and checked where it is not there."""
        if not (path.exists() and path.with_suffix(".json").exists()):
            ranges, workers = None, self.settings.workers
            if int8:
                with self.seeded():
                    ranges = Int8(self.data.ranges(MOST, self.settings.seed, workers))
            export(
                model,
                path,
                self.example,
                format=FORMAT_OF[engine],
                check=self.data.checked(CHECKED, workers),
                preprocessing=self.data.preprocessing,
                int8=ranges,
            )
        return path

    def answers(self, file: Path) -> Answers:
        """The answers of a file in its engine, with as many threads as PyTorch has."""
        network = FileNetwork(file, engine=self.engine[0])
        with torch.no_grad():
            return self.data.answers(network, self.settings.workers, self.progress, file.name)

    # Rivals, and the report.

    def rival_rows(self, original: nn.Module, ours: Made, rows: Sequence[Row]) -> list[Row]:
        """The rivals, tuned as ours is; those that have a size as large as takes our share of the time in float32."""
        row = next(row for row in rows if row.name == ours.title and row.precision == "fp32")
        share = min(0.95, 1 / row.speedup)
        start = Start(original, self.calibration, share, self.settings.effort, self.settings.seed)
        found: list[Row] = []
        for name, make in RIVALS.items():
            try:
                model = self.rival(name, partial(make, start), original)
            except InputError as error:
                self.say(f"{name}: none, {error}")
                continue
            found += self.rows_of(name, "rival", model, self.steps.path(name))
        return found

    def rival(self, name: str, make: Callable[[], nn.Module], original: nn.Module) -> nn.Module:
        made = partial(copy.deepcopy, kept_network(self.steps.path(f"{name}.safetensors"), make))
        return made() if self.settings.tune.none else self.tuned(made, original, f"tuned {name}")[0]

    def report(self, original: nn.Module, made: Sequence[Made], rows: Sequence[Row], engine: str) -> Run:
        environment = describe_environment(self.settings.device)
        explanation, notes = self.explained(original, made[-1].model)
        disturbed = disturbance(environment)
        notes += [disturbed] if disturbed else []
        sentences = findings(rows, made, self.data, engine, self.settings)
        metrics = {
            "model": self.name,
            "data": self.data.images.name,
            "labelled": self.data.labelled,
            "score": self.data.measure,
            "engine": engine,
            "threads": self.settings.threads,
            "settings": self.settings.as_json(),
            "networks": [asdict(row) for row in rows],
            "tuning": {one.title: one.tuning for one in made},
            "plans": {one.title: {"speedup": one.plan.speedup, "limit": one.plan.limit} for one in made},
            "layers": [asdict(layer) for layer in explanation.layers] if explanation else None,
            "findings": [*sentences, *notes],
            "seconds": self.seconds,
            "environment": environment,
        }
        files = tuple(self.file_of(one.folder / "network", self.settings.int8) for one in made)
        write_report(self.out / REPORT, metrics, original, made[-1].model, self.data, explanation)
        with replacing(self.out / METRICS) as temporary:
            temporary.write_text(json.dumps(metrics, indent=2) + "\n")
        return Run(made[-1].model, files, tuple(rows), self.out / REPORT, (*sentences, *notes), metrics)

    def explained(self, original: nn.Module, model: nn.Module) -> tuple[Explanation | None, list[str]]:
        """Where the time goes in the engine, layer by layer; None and why not, in a sentence."""
        settings, precision = self.settings, "int8" if self.settings.int8 else "fp32"
        try:
            found = explain(
                original,
                model,
                self.example,
                engine=self.engine[0],
                threads=settings.threads,
                precision=("fp32", precision),  # type: ignore[arg-type]  # one of both
            )
        except InputError as error:
            return None, [f"Time by layer is not known: {error}."]
        return found, []


def saved(model: nn.Module, path: Path, preprocessing: dict[str, Any]) -> str:
    """Write the network to train on; why it cannot be written, or ""."""
    try:
        save(model, path, extra=preprocessing)
    except InputError as error:
        return f"{path.name} is not written, as {error}."
    return ""


def kept_network(path: Path, make: Callable[[], nn.Module]) -> nn.Module:
    """A network from its file, or made and written there where that can be done."""
    if path.exists():
        try:
            return load(path)
        except InputError:  # of a class that this process does not know
            return make()
    model = make()
    return load(path) if not saved(model, path, {}) else model
