"""The whole story: train a network, make its ghost, train its narrower rival, and measure all three."""

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.atomic import replacing
from ghostify.data import ImageData
from ghostify.data.images import count_images
from ghostify.data.sample import draw_inputs
from ghostify.errors import InputError
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.inference.compare import compare
from ghostify.inference.explain import Explanation, explain
from ghostify.jobs.checkpoint import Epoch
from ghostify.jobs.evaluate import Score, check_fit, evaluate
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.report import write_report
from ghostify.jobs.run_settings import CHECKPOINTS, METRICS, REPORT, TITLES, RunSettings, refuse_finished
from ghostify.jobs.train import Teacher, train
from ghostify.measure.count import Count, count
from ghostify.measure.environment import describe_environment, disturbance
from ghostify.measure.latency import Comparison
from ghostify.measure.memory import peak_memory_mb
from ghostify.network_file import save
from ghostify.planning import convert
from ghostify.progress import Progress
from ghostify.transform.narrow import narrow


@dataclass(frozen=True)
class Contestant:
    """One of the three networks and all that was measured of it.

    Args:
        name: "original", "ghost" or "narrow"; see ``TITLES`` for what sentences call them.
        network: Trained, in eval mode.
        counted: Multiply-adds and parameters.
        history: Its training.
        score: On the test images.
        latency: Against the original; None for the original itself.
        peak_memory_mb: Peak of one call with one image; None where it is not known.
    """

    name: str
    network: nn.Module
    counted: Count
    history: list[Epoch]
    score: Score
    latency: Comparison | None
    peak_memory_mb: float | None


@dataclass(frozen=True)
class Proof:
    """The result of a run.

    Args:
        contestants: The original, its ghost and, where the network can be narrowed, its rival.
        ghost_over_narrow: Latency of the ghost over that of the rival.
        explanation: Where the time of original and ghost went, layer by layer; None where that is not known.
        setting: Network, data, recipe and machine.
        notes: Sentences on what could not be done, or not well.
    """

    contestants: list[Contestant]
    ghost_over_narrow: Comparison | None
    explanation: Explanation | None
    setting: dict[str, Any]
    notes: list[str]

    def metrics(self) -> dict[str, Any]:
        """Everything as JSON values."""
        original = self.contestants[0]
        rows = {}
        for c in self.contestants:
            rows[c.name] = {
                "top1": c.score.top1,
                "top1_low": c.score.interval[0],
                "top1_high": c.score.interval[1],
                "test_images": c.score.images,
                "params": c.counted.params,
                "macs": c.counted.macs,
                "unknown_operators": c.counted.unknown,
                "theoretical_speedup": original.counted.macs / c.counted.macs,
                "measured_speedup": 1 / c.latency.ratio if c.latency else 1.0,
                "measured_speedup_low": 1 / c.latency.ratio_high if c.latency else None,
                "measured_speedup_high": 1 / c.latency.ratio_low if c.latency else None,
                "latency": asdict(c.latency) if c.latency else None,
                "peak_memory_mb": c.peak_memory_mb,
                "history": [asdict(epoch) for epoch in c.history],
            }
        rival = asdict(self.ghost_over_narrow) if self.ghost_over_narrow else None
        layers = [asdict(layer) for layer in self.explanation.layers] if self.explanation else None
        found = {"networks": rows, "ghost_over_narrow": rival, "layers": layers, "notes": self.notes}
        return {**self.setting, **found}

    def findings(self) -> list[str]:
        """The result in sentences."""
        original, ghost, *rest = self.contestants
        sentences = [start(self.setting, original), gain(ghost, original, ghost.latency)]
        sentences += [gain(ghost, rival, self.ghost_over_narrow) for rival in rest]
        return sentences + self.notes


def start(setting: dict[str, Any], original: Contestant) -> str:
    """The ghost's accuracy before its training, and how long that is, in a sentence."""
    kept, images = setting["calibration"]["val_top1"], setting["calibration"]["images"]
    known = original.history[-1].val_top1
    epochs = f"{setting['ghost_recipe']['epochs']} epochs with labels, the original {setting['recipe']['epochs']}"
    if kept is None or known is None:
        return f"The ghost was made of the trained original with {images} images, and was trained for {epochs}."
    made = f"Made of the trained original with {images} images and no labels, the ghost had {100 * kept:.1f} % of the"
    return f"{made} held-out images right, the original {100 * known:.1f} %; then it was trained for {epochs}."


def gain(ghost: Contestant, other: Contestant, latency: Comparison | None) -> str:
    """The ghost against another network, in a sentence."""
    points = 100 * (ghost.score.top1 - other.score.top1)
    (low, high), (other_low, other_high) = ghost.score.interval, other.score.interval
    overlap = "the intervals overlap" if low <= other_high and other_low <= high else "the intervals are apart"
    share = 100 * ghost.counted.macs / other.counted.macs
    title = f"the {TITLES[other.name]}"
    time = latency.verdict(title, "the ghost") if latency else "latency was not compared"
    return f"Against {title}: {share:.0f} % of its MACs, {points:+.1f} points of top-1 ({overlap}); {time}."


def run(
    build: Callable[[], nn.Module],
    data: ImageData,
    settings: RunSettings,
    out: Path,
    *,
    about: Mapping[str, Any],
    progress: Progress | None = None,
) -> Proof:
    """Train a network, turn it into its ghost, train the same network made narrower instead; measure all three.

    The ghost starts as the trained original's approximation, and learns with the original as its teacher. The narrower
    network has the ghost's MACs, starts from the random weights that the original started from, as far as
    it has them, and follows the original's recipe. The test images are used once, for the last weights.

    Args:
        build: Makes the original; called after seeding, so that it gives the same weights each time.
        settings: How to train and measure.
        out: Folder for ``metrics.json``, ``report.html``, the networks and the checkpoints.
        about: Values to record beside the settings, such as the names of network and data.
    Raises:
        InputError: If network, data and settings do not go together, or ``out`` holds another run.
    """
    trainings = Trainings(build, data, settings, out, progress)
    trainings.refuse_early()
    networks = {"original": trainings.train("original", trainings.fresh(), settings.recipe)}
    ghost, top1_before = trainings.make_ghost(networks["original"].network)
    networks["ghost"] = trainings.train_ghost(ghost, networks["original"].network)
    narrower, notes = make_narrower(trainings.fresh(), shape_of(data), count(ghost, shape_of(data)).macs)
    if narrower is not None:
        networks["narrow"] = trainings.train("narrow", narrower, settings.recipe)
    measured = measure(networks, data, settings, progress)
    setting = {
        **about,
        **settings_as_json(settings, top1_before),
        "environment": describe_environment(settings.device),
    }
    disturbed = disturbance(setting["environment"])
    notes = [*notes, *measured.notes, *([disturbed] if disturbed else [])]
    proof = Proof(measured.contestants, measured.ghost_over_narrow, measured.explanation, setting, notes)
    with replacing(out / METRICS) as temporary:
        temporary.write_text(json.dumps(proof.metrics(), indent=2) + "\n")
    original, ghost = networks["original"].network, networks["ghost"].network
    write_report(out / REPORT, proof.metrics(), proof.findings(), original, ghost, data, measured.explanation)
    return proof


def shape_of(data: ImageData) -> tuple[int, int, int]:
    return 3, data.image_size, data.image_size


def settings_as_json(settings: RunSettings, top1_before: float | None) -> dict[str, Any]:
    """Recipes, ghost and calibration, for the record."""
    ghost = settings.ghost
    return {
        "recipe": asdict(settings.recipe),
        "ghost_recipe": asdict(ghost.recipe(settings.recipe)),
        "ratio": ghost.ratio,
        "cheap_kernel_size": ghost.cheap_kernel_size,
        "cheap": ghost.cheap,
        "calibration": {"images": ghost.image_count, "effort": ghost.effort, "val_top1": top1_before},
    }


@dataclass(frozen=True)
class Trained:
    """A network and its training."""

    network: nn.Module
    history: list[Epoch]


@dataclass(frozen=True)
class Trainings:
    """The trainings of a run, see ``run`` for its arguments."""

    build: Callable[[], nn.Module]
    data: ImageData
    settings: RunSettings
    out: Path
    progress: Progress | None

    def refuse_early(self) -> None:
        """Refuse before an hour of training what would be refused after it."""
        refuse_finished(self.out, self.settings.resume)
        images = min(self.settings.ghost.image_count, count_images(self.data.train))
        if images < FEWEST_IMAGES:
            raise InputError(f"{images} images to make the ghost with: expected at least {FEWEST_IMAGES}")
        check_fit(self.fresh(), self.data)
        ghost = self.settings.ghost
        convert(
            self.fresh(),
            ratio=ghost.ratio,
            cheap_kernel_size=ghost.cheap_kernel_size,
            cheap=ghost.cheap,
            input_shape=shape_of(self.data),
        )

    def fresh(self) -> nn.Module:
        """The original with its first random weights."""
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(self.settings.recipe.seed)
            return self.build()

    def train(
        self, name: str, network: nn.Module, recipe: Recipe, teacher: Teacher | None = None, began: str = ""
    ) -> Trained:
        """Train a network and save it under its name; one that ``began`` otherwise has a checkpoint of its own."""
        history = train(
            network,
            self.data,
            recipe,
            teacher=teacher,
            options=RunOptions(
                self.settings.device,
                self.settings.workers,
                self.out / CHECKPOINTS / f"{name}{began}.pt",
                self.settings.resume,
            ),
            progress=renamed(self.progress, f"train {name}"),
        )
        save(network, self.out / f"{name}.safetensors", extra=self.data.preprocessing)
        return Trained(network, history)

    def make_ghost(self, original: nn.Module) -> tuple[nn.Module, float | None]:
        """The ghost of the trained original, and its top-1 on held-out images before it is trained."""
        data, device, workers, ghost = self.data, self.settings.device, self.settings.workers, self.settings.ghost
        seed = self.settings.recipe.seed
        model = convert(
            original,
            ratio=ghost.ratio,
            cheap_kernel_size=ghost.cheap_kernel_size,
            cheap=ghost.cheap,
            input_shape=shape_of(data),
            calibration=[batch.to(device) for batch in draw_inputs(data, ghost.image_count, seed, workers=workers)],
            effort=ghost.effort,
            seed=seed,
            progress=renamed(self.progress, "make the ghost"),
        ).model
        if data.val is None:
            return model, None
        return model, evaluate(model, data.val, data, device=device, workers=workers).top1

    def train_ghost(self, ghost: nn.Module, original: nn.Module) -> Trained:
        made = self.settings.ghost
        began = f", {made.effort} on {made.image_count} images"
        return self.train("ghost", ghost, made.recipe(self.settings.recipe), Teacher(original), began)


@dataclass(frozen=True)
class Measured:
    """All that is measured once the networks are trained, see ``Proof``."""

    contestants: list[Contestant]
    ghost_over_narrow: Comparison | None
    explanation: Explanation | None
    notes: list[str]


def measure(
    networks: Mapping[str, Trained], data: ImageData, settings: RunSettings, progress: Progress | None
) -> Measured:
    """Measure the networks, the original first, one after the other with nothing else running."""
    example = torch.zeros(1, *shape_of(data), device=settings.device)
    threads = torch.get_num_threads()
    numbers, steps = itertools.count(), 3 * len(networks) + 1

    def report(what: str) -> None:
        if progress:
            progress("measure", what, next(numbers), steps)

    def compared(a: str, b: str) -> Comparison:
        a_network, b_network = networks[a].network, networks[b].network
        return compare(a_network, b_network, example, threads=threads, blocks=settings.blocks)

    contestants: list[Contestant] = []
    for name, trained in networks.items():
        network = trained.network.eval()
        network.to(settings.device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as in train
        report(f"accuracy of the {name}")
        score = evaluate(network, data.test, data, device=settings.device, workers=settings.workers)
        report(f"latency of the {name}")
        latency = compared("original", name) if contestants else None
        report(f"memory of the {name}")
        memory = peak_memory_mb(network, example, threads=threads)
        counted = count(network, shape_of(data))
        contestants.append(Contestant(name, network, counted, trained.history, score, latency, memory))
    rival = compared("narrow", "ghost") if "narrow" in networks else None
    report("time by layer")
    before, after = networks["original"].network, networks["ghost"].network
    explanation, notes = explain_by_layer(before, after, example, threads)
    report("done")
    return Measured(contestants, rival, explanation, notes)


def explain_by_layer(
    original: nn.Module, ghost: nn.Module, example: Tensor, threads: int
) -> tuple[Explanation | None, list[str]]:
    """Where the time goes in OpenVINO on the CPU; None and why not, in a sentence, where that cannot be known."""
    try:
        before, after = (copy.deepcopy(network).cpu() for network in (original, ghost))
        return explain(before, after, example.cpu(), engine="openvino", threads=threads), []
    except ModuleNotFoundError as error:
        return None, [f"Time by layer needs {error.name}: pip install {error.name}."]
    except InputError as error:
        return None, [f"Time by layer is not known: {error}."]


def make_narrower(model: nn.Module, shape: tuple[int, int, int], macs: int) -> tuple[nn.Module | None, list[str]]:
    """The same network with fewer channels; None and why not, in a sentence, where it cannot have fewer."""
    try:
        return narrow(model, shape, macs), []
    except InputError as error:
        return None, [f"No narrower rival: {error}."]


def renamed(progress: Progress | None, task: str) -> Progress | None:
    """The same, under another task's name."""
    if progress is None:
        return None
    return lambda _, detail, done, total: progress(task, detail, done, total)
