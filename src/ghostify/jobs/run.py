"""One road: a trained network and a speed in; a faster file, and the proof beside it, out."""

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.atomic import nearest_there, replacing
from ghostify.changes.ratio import GhostRatio
from ghostify.data import ImageData, load_data
from ghostify.data.images import count_images
from ghostify.data.own import data_from_batches
from ghostify.data.sample import draw, draw_inputs
from ghostify.errors import InputError, spelled
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.inference.engines import FILE_ENGINES, FileRunner, check_engine
from ghostify.inference.explain import Explanation, explain
from ghostify.inference.export import ENGINE as ENGINE_OF
from ghostify.inference.export import FORMATS, SUFFIX, export
from ghostify.inference.needed import is_installed, refuse_engine, refuse_missing
from ghostify.inference.quantize import MOST, Int8
from ghostify.jobs.accuracy import AllowedDrop, plan_for_accuracy
from ghostify.jobs.evaluate import check_fit
from ghostify.jobs.forecast import Speeds, forecast, in_words, seconds_per_image
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.report import write_report
from ghostify.jobs.rivals import RIVALS, Start
from ghostify.jobs.row import Answers, Row, answers_of, row_of, timed
from ghostify.jobs.run_settings import METRICS, NETWORK, PLAN, REPORT, STEPS, RunSettings, Tuning, refuse_finished
from ghostify.jobs.steps import ABOUT, Steps
from ghostify.jobs.train import train
from ghostify.jobs.tune import TuningSettings, tune, words_of
from ghostify.measure.count import count
from ghostify.measure.environment import describe_environment, disturbance
from ghostify.measure.latency import relative_time
from ghostify.network_file import load, save
from ghostify.plain_part import is_detector
from ghostify.planning import convert, plan
from ghostify.planning.measurements import fingerprint
from ghostify.planning.plan_file import Plan, read_plan, write_plan
from ghostify.progress import Progress
from ghostify.transform.changeable import commonest_reasons, may_be_fitted, reasons_to_leave
from ghostify.transform.reconstruct import Effort
from ghostify.transform.untrained import untrained
from ghostify.wrappers import unwrapped

ENGINE, ORIGINAL, MEASUREMENTS = "engine.json", "original", "measurements.jsonl"
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


def run(  # noqa: PLR0913  # the front door: the promised names, each a setting of the user's
    model: nn.Module,
    data: str | ImageData | Iterable[Any],
    *,
    out: str | Path,
    target_speedup: float | None = None,
    max_accuracy_drop: float | None = None,
    sweep: bool = False,
    int8: bool = False,
    tune: str | float = "10min",
    labels: bool = False,
    engine: str | None = None,
    threads: int = 1,
    rivals: bool = False,
    images: int = 1024,
    effort: Effort = "refined",
    skip: Sequence[str] = (),
    recipe: Recipe | None = None,
    device: str = "cpu",
    workers: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Run:
    """Make a trained network as fast as wanted by measured time, keep what it knows, and prove both.

    The original is scored and timed in the engine; a plan for the speed is made and carried out without labels; the
    network learns from the original; its file is written, checked, scored and timed. Each step is a public function:
    ``plan``, ``convert``, ``train`` with hints, ``export``, ``compare``. Called again with the same ``out``, the run
    goes on behind the last finished step.

    Args:
        model: A network that classifies; left untouched.
        data: A data set's reference, such as "imagefolder:DIR"; an ``ImageData`` with images held out; or batches of
            normalised inputs ``[batch, channels, height, width]``, or of pairs of these and labels, of which a fifth is
            kept to judge by. Without labels right is what the network itself answers.
        out: Folder for the files, ``network.safetensors``, ``plan.json``, ``metrics.json`` and ``report.html``.
        target_speedup: How many times as fast as the original in float32; or
        max_accuracy_drop: the fastest that loses no more points of top-1 on held-out images before it learns; or
        sweep: networks of several speeds, each in a folder of its own.
        int8: Plan for the times in int8, and write the file in it.
        tune: How long the network learns from the original: epochs, such as 5, or minutes, such as "10min"; 0: not.
        labels: Learn from labels, too, for a tenth of the loss.
        engine: "openvino" or "onnxruntime"; None: the faster of those that are installed.
        threads: CPU threads of the engine.
        rivals: Make, score and time the paper's ghost and the network pruned by Torch-Pruning, too.
        images: Training images to plan and convert with.
        effort: "refined", or "fast": see ``convert``.
        skip: Modules to leave, by name or pattern.
        recipe: Train the network first, with labels; None: it is trained.
        device: "cpu" or "cuda", to compute on; the engine runs on the CPU.
        workers: Processes that decode images of a folder.
        seed: Seed of all that is drawn.
        progress: Called with the progress of each step.
        say: Called with sentences on what is done, and for how long.
    Raises:
        InputError: If something cannot serve, before any work begins where that can be known; or the speed is out of
            reach (the message says what is in reach).
    """
    settings = RunSettings(
        target_speedup, max_accuracy_drop, sweep, int8, Tuning.of(tune), labels, engine, threads, rivals, images,
        effort, tuple(skip), recipe, device, workers, seed,
    )  # fmt: skip
    refuse_missing("matplotlib", "jinja2")
    precisions = ("int8",) if int8 else ()
    if engine is not None:
        check_engine(engine, FILE_ENGINES)
        refuse_engine(engine, *precisions)
    elif not any(map(is_installed, FILE_ENGINES)):
        refuse_engine(FILE_ENGINES[0], *precisions)
    model = copy.deepcopy(unwrapped(model)).cpu().eval()
    if is_detector(model):
        raise InputError(f"{type(model).__name__} finds objects, and plans are not made for detectors yet")
    opened = opened_data(model, data, settings)
    return Road(model, opened, settings, Path(out), progress, say).go()


@dataclass(frozen=True)
class Data:
    """The images of a run.

    Args:
        images: The data set.
        labelled: Right is what labels say; else what the original answers.
        preprocessing: How images become inputs, as far as that is known.
    """

    images: ImageData
    labelled: bool = True
    preprocessing: dict[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return "top-1" if self.labelled else "of the original's answers"


def opened_data(model: nn.Module, data: Any, settings: RunSettings) -> Data:
    """The images, checked against the network."""
    if isinstance(data, Data):
        found = data
    elif isinstance(data, str):
        images = load_data(data, hold_out=0.1)
        found = Data(images, preprocessing=images.preprocessing)
    elif isinstance(data, ImageData):
        found = Data(data, preprocessing=data.preprocessing)
    else:
        batches = list(data)
        labelled = any(isinstance(batch, tuple | list) and len(batch) > 1 for batch in batches)
        found = Data(data_from_batches(batches, model), labelled)
    if found.images.val is None:
        raise InputError(f"{spelled('data')}: rates are chosen by images held out of train: expected some")
    if (settings.labels or settings.recipe) and not found.labelled:
        raise InputError(f"{spelled('data')} has no labels to learn from: leave {spelled('labels')} out")
    enough = min(settings.images, count_images(found.images.train))
    if enough < FEWEST_IMAGES:
        raise InputError(f"{enough} training images: expected at least {FEWEST_IMAGES}, better some hundreds")
    check_fit(model, found.images)
    return found


@dataclass(frozen=True)
class Road:
    """A run, see ``run``."""

    given: nn.Module
    data: Data
    settings: RunSettings
    out: Path
    progress: Progress | None
    tell: Callable[[str], None] | None
    seconds: dict[str, float] = field(default_factory=dict)  # that steps took in this call

    def go(self) -> Run:
        self.refuse_early()
        engine, speeds = self.engine
        expected = self.announce(speeds)
        with self.step("train", expected):
            original = self.original
        rows = self.original_rows(original)
        made: list[Made] = []
        for target in self.settings.speeds or (None,):
            made.append(self.made_for(target, original, expected))
            rows += self.rows_of_made(made[-1])
        if self.settings.rivals:
            rows += self.rival_rows(original, made[0], rows)
        return self.report(original, made, rows, engine)

    def say(self, text: str) -> None:
        if self.tell:
            self.tell(text)

    @contextmanager
    def step(self, name: str, expected: dict[str, float]) -> Iterator[None]:
        """Say which step begins, and how long it and the rest take; and write down how long it took."""
        if name not in expected:
            yield
            return
        names = list(expected)
        rest = sum(seconds for other, seconds in expected.items() if names.index(other) >= names.index(name))
        share = expected[name] / max(1, len(self.settings.speeds))
        self.say(f"{name}: about {in_words(share)}, in all about {in_words(rest)} left")
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    # Looking first.

    def refuse_early(self) -> None:
        """Refuse in seconds what would be refused after minutes."""
        refuse_finished(self.out, (self.out / STEPS / ABOUT).exists())
        reasons = reasons_to_leave(self.given, GhostRatio(), self.settings.skip, self.example)
        if not any(map(may_be_fitted, reasons.values())):
            why = commonest_reasons(list(reasons.values())) if reasons else "it has none"
            raise InputError(f"no convolution of {type(self.given).__name__} can be made cheaper: {why}")
        needed = DISK * sum(t.numel() * t.element_size() for t in self.given.state_dict().values())
        free = shutil.disk_usage(nearest_there(self.out)).free
        if free < needed:
            raise InputError(f"{self.out}: {free / 1e9:.1f} GB are free, a run writes some {needed / 1e9:.1f} GB")

    @cached_property
    def steps(self) -> Steps:
        about = self.settings.as_json() | {"data": self.data.images.name, **self.data.images.identity}
        return Steps(self.out / STEPS, about | {"network": fingerprint(self.given.state_dict().items())})

    @cached_property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.data.images.shape)

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
        started = time.perf_counter()
        for number, name in enumerate(names):
            if self.progress:
                self.progress("look", name, number, len(names))
            try:
                file = self.exported(self.given, self.steps.path(f"untrained{SUFFIX[FORMAT_OF[name]]}"), name)
                with FileRunner(file, name, self.example, threads=self.settings.threads) as runner:
                    ms[name] = median(runner.times_ms(CALLS))
            except InputError as error:
                refusals[name] = str(error)
        if not ms:
            raise InputError("; ".join(f"{name}: {why}" for name, why in refusals.items()))
        seconds = (time.perf_counter() - started) / len(names)
        run = seconds_per_image(self.given, self.example)
        return {"engine": min(ms, key=ms.__getitem__), "ms": ms, "run": run, "file": seconds, "refusals": refusals}

    def announce(self, speeds: Speeds) -> dict[str, float]:
        """Say what is there, and what will be done."""
        engine, (images, settings) = self.engine[0], (self.data.images, self.settings)
        macs, shape = count(self.given, images.shape), "×".join(map(str, images.shape))
        self.say(
            f"{type(self.given).__name__}: {macs.params / 1e6:.2f} M weights, {macs.macs / 1e6:.1f} M multiply-adds "
            f"for {shape}; {images.name}: {count_images(images.train):,} images to learn from, "
            f"{count_images(images.val) if images.val else 0:,} held out, {count_images(images.test):,} to judge by"
        )
        row = self.steps.read(ENGINE)
        others = [f"{name} {ms:.2f} ms" for name, ms in row["ms"].items() if name != engine]
        others += [f"{name} cannot run it" for name in row["refusals"]]
        of = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
        self.say(f"{engine}: {1e3 * speeds.call:.2f} ms for an image with {of}" + "".join(f"; {one}" for one in others))
        rows = (1 + len(settings.speeds or (None,)) + (len(RIVALS) if settings.rivals else 0)) * (1 + settings.int8)
        expected = forecast(self.given, macs.macs, speeds, images, settings, rows)
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
            train(model, self.data.images, self.settings.recipe, options=options, progress=self.progress)
            return model

        return self.steps.weights(f"{ORIGINAL}.safetensors", trained, lambda: copy.deepcopy(self.given))

    def original_rows(self, original: nn.Module) -> list[Row]:
        return self.rows_of(ORIGINAL, "original", original, self.steps.path(ORIGINAL))

    @cached_property
    def answers_of_original(self) -> Answers:
        return self.answers(self.file_of(self.steps.path(ORIGINAL), int8=False))

    # A network for a speed.

    def made_for(self, target: float | None, original: nn.Module, expected: dict[str, float]) -> "Made":
        """Plan, convert and tune for a speed; for the accuracy drop where there is none."""
        name = "for the drop" if target is None else f"{target:g}"
        with self.step("plan", expected):
            planned = self.planned(name, target, original)
        shaped = partial(untrained, original, planned, self.example)
        with self.step("convert", expected):
            converted = partial(
                self.steps.weights,
                f"converted {name}.safetensors",
                lambda: self.converted(original, planned),
                shaped,
            )
            model = converted()
        told: dict[str, Any] | None = None
        if not self.settings.tune.none:
            with self.step("tune", expected):
                model, told = self.tuned(converted, original, f"tuned {name}", shaped)
        folder = self.out / f"speed-{target:g}" if self.settings.sweep else self.out
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(planned, folder / PLAN)
        title = "planned for the drop" if target is None else f"planned for {target:g}×"
        return Made(title, model, planned, folder, told, saved(model, folder / NETWORK, self.data.preprocessing))

    def planned(self, name: str, target: float | None, original: nn.Module) -> Plan:
        path = self.steps.path(f"plan {name}.json")
        if not path.exists():
            write_plan(self.plan_for(target, original), path)
        return read_plan(path)

    def plan_for(self, target: float | None, original: nn.Module) -> Plan:
        settings, engine = self.settings, self.engine[0]
        model = copy.deepcopy(original).to(settings.device)
        batches = [batch.to(settings.device) for batch in self.calibration]

        def for_speed(speed: float) -> Plan:
            return plan(
                model,
                example=batches[0][:1],
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
        allowed = AllowedDrop(
            settings.max_accuracy_drop, "fast", settings.device, settings.seed, workers=settings.workers
        )
        return plan_for_accuracy(model, self.data.images, batches, for_speed, allowed, progress=self.progress)[0]

    def converted(self, original: nn.Module, planned: Plan) -> nn.Module:
        settings = self.settings
        model = copy.deepcopy(original).to(settings.device)
        batches = [batch.to(settings.device) for batch in self.calibration]
        return convert(
            model,
            calibration=batches,
            plan=planned,
            effort=settings.effort,
            seed=settings.seed,
            progress=self.progress,
        ).model.cpu()

    def tuned(
        self, network: Callable[[], nn.Module], original: nn.Module, name: str, shaped: Callable[[], nn.Module]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The network after it has learnt, or as it was where that is better; and how it was tuned."""
        settings = self.settings
        how = TuningSettings(settings.tune, settings.labels, settings.device, settings.workers, settings.seed)

        def learnt() -> nn.Module:
            with self.seeded():
                model, told = tune(network, original, self.data.images, how, self.steps, name, self.progress)
            self.steps.write(f"{name}.json", told)
            return model

        model = self.steps.weights(f"{name}.safetensors", learnt, shaped)
        return model, self.steps.read(f"{name}.json")

    @cached_property
    def calibration(self) -> list[Tensor]:
        """Training images as the network gets them, without labels."""
        with self.seeded():
            return draw_inputs(
                self.data.images, self.settings.images, self.settings.seed, workers=self.settings.workers
            )

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Random crops of images that are the same in every call."""
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(self.settings.seed)
            yield

    # Files, scores and times.

    def rows_of_made(self, made: "Made") -> list[Row]:
        return self.rows_of(made.title, "ours", made.model, made.folder / "network", self.steps.path(made.title))

    def rows_of(self, title: str, kind: Any, model: nn.Module, path: Path, in_fp32: Path | None = None) -> list[Row]:
        """The rows of a network: in float32, and where that is asked for in int8.

        Args:
            path: Path of its file without suffix.
            in_fp32: That of the file in float32, where another is asked for.
        """
        rows = []
        for precision in ("fp32", "int8") if self.settings.int8 else ("fp32",):
            own = in_fp32 if self.settings.int8 and precision == "fp32" and in_fp32 is not None else path
            key = f"{title}, {precision}.json"
            rows.append(Row(**self.steps.values(key, partial(self.measured, title, kind, model, own, precision))))
        return rows

    def measured(self, title: str, kind: Any, model: nn.Module, path: Path, precision: str) -> dict[str, Any]:
        int8 = precision == "int8"
        file = self.exported(model, self.file_of(path, int8), self.engine[0], int8=int8)
        answers = self.answers_of_original if (title, precision) == (ORIGINAL, "fp32") else self.answers(file)
        times = timed(
            self.file_of(self.steps.path(ORIGINAL), int8=False),
            file,
            self.example,
            self.engine[0],
            self.settings.threads,
        )
        counted = count(model, self.data.images.shape)
        note = json.loads(file.with_suffix(".json").read_text())
        lost = (note.get("int8") or {}).get("lost", "")
        rest = {"name": title, "kind": kind, "precision": precision, "macs": counted.macs, "params": counted.params}
        return asdict(row_of(self.out, file, answers, self.answers_of_original, times, **rest, lost=lost))

    def file_of(self, path: Path, int8: bool) -> Path:
        return path.with_name(f"{path.name}{'.int8' if int8 else ''}{SUFFIX[FORMAT_OF[self.engine[0]]]}")

    def exported(self, model: nn.Module, path: Path, engine: str, *, int8: bool = False) -> Path:
        """The network's file, written and checked where it is not there."""
        if not (path.exists() and path.with_suffix(".json").exists()):
            images, workers = self.data.images, self.settings.workers
            ranges = None
            if int8:
                with self.seeded():
                    ranges = Int8(draw_inputs(images, MOST, self.settings.seed, workers=workers))
            export(
                model,
                path,
                self.example,
                format=FORMAT_OF[engine],
                check=draw(images.test, images, CHECKED, workers=workers),
                preprocessing=self.data.preprocessing,
                int8=ranges,
            )
        return path

    def answers(self, file: Path) -> Answers:
        return answers_of(file, self.engine[0], self.data.images, self.settings.workers, self.progress, file.name)

    # Rivals, and the report.

    def rival_rows(self, original: nn.Module, ours: "Made", rows: Sequence[Row]) -> list[Row]:
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
        file, tuned = self.steps.path(f"{name}.safetensors"), self.steps.path(f"tuned {name}.safetensors")
        model = kept_network(file, make)
        if self.settings.tune.none:
            return model
        settings = self.settings
        how = TuningSettings(settings.tune, False, settings.device, settings.workers, settings.seed)

        def learnt() -> nn.Module:
            with self.seeded():
                return tune(
                    lambda: copy.deepcopy(model), original, self.data.images, how, self.steps, name, self.progress
                )[0]

        return kept_network(tuned, learnt)

    def report(self, original: nn.Module, made: Sequence["Made"], rows: Sequence[Row], engine: str) -> Run:
        environment = describe_environment(self.settings.device)
        explanation, notes = self.explained(original, made[-1].model)
        disturbed = disturbance(environment)
        notes += [disturbed] if disturbed else []
        sentences = findings(rows, made, self.data, engine, self.settings)
        metrics = {
            "model": type(original).__name__,
            "data": self.data.images.name,
            "labelled": self.data.labelled,
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
        write_report(self.out / REPORT, metrics, original, made[-1].model, self.data.images, explanation)
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


@dataclass(frozen=True)
class Made:
    """A network that was made for a speed.

    Args:
        title: What the table calls it.
        model: The network.
        plan: Its plan.
        folder: Where its files are.
        tuning: How it was tuned; None where it was not.
        note: Why there is no file to load it from; "" where there is one.
    """

    title: str
    model: nn.Module
    plan: Plan
    folder: Path
    tuning: dict[str, Any] | None
    note: str


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


def findings(rows: Sequence[Row], made: Sequence[Made], data: Data, engine: str, settings: RunSettings) -> list[str]:
    """The result in sentences: accuracy before and after, speed, what was lost where."""
    precision = "int8" if settings.int8 else "fp32"
    original = rows[0]
    sentences = []
    for one in made:
        mine = {row.precision: row for row in rows if row.name == one.title}
        row = mine[precision]
        sentences.append(f"{one.title}: {accuracy(original, row, data)}; {speed(row, engine, settings)}.")
        if one.tuning:
            sentences.append(words_of(one.tuning, data.unit))
        if settings.int8:
            points = 100 * (row.top1 - mine["fp32"].top1)
            sentences.append(f"int8 changes {points:+.2f} points of these.")
        sentences += [f"{row.lost}."] if row.lost else []
        sentences += [one.note] if one.note else []
    alike = [row for row in rows if row.precision == precision]
    best = max((row for row in alike if row.kind == "ours"), key=lambda row: row.speedup)
    return sentences + [
        f"{other.name} in {other.precision} is as fast and as good: take that."
        for other in alike
        if other.kind != "ours" and other.top1 >= best.top1 and other.speedup >= best.speedup
    ]


def accuracy(before: Row, after: Row, data: Data) -> str:
    """Right answers before and after, with intervals."""
    ends = f"{100 * after.top1:.2f} % ({100 * after.top1_low:.2f}–{100 * after.top1_high:.2f})"
    if not data.labelled:
        return f"{ends} {data.unit}"
    first = f"{100 * before.top1:.2f} % ({100 * before.top1_low:.2f}–{100 * before.top1_high:.2f})"
    return f"{data.unit} {first} before, {ends} after, {100 * after.agreement:.1f} % of the answers the same"


def speed(row: Row, engine: str, settings: RunSettings) -> str:
    of = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    ends = (1 / row.speedup_high, 1 / row.speedup_low)
    return f"{relative_time(1 / row.speedup, 'the original in float32', ends)} in {engine} with {of}"
