"""The whole story: train a network, make its ghost, train its narrower rival, and measure all three."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from ghostify.jobs.train import Teacher, train
from ghostify.layers.ghost_conv import Cheap
from ghostify.measure.count import Count, count
from ghostify.measure.environment import describe_environment, disturbance
from ghostify.measure.latency import Comparison
from ghostify.measure.memory import peak_memory_mb
from ghostify.network_file import save
from ghostify.progress import Progress
from ghostify.transform.convert import convert
from ghostify.transform.narrow import narrow
from ghostify.transform.reconstruct import Effort

METRICS, REPORT = "metrics.json", "report.html"
# Of the original's peak learning rate: a high one spoils a good start.
GHOST_LR = 0.1
TITLES = {"original": "original", "ghost": "ghost", "narrow": "narrower network"}


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
        peak_memory_mb: Of one call with one image; None where the system does not tell.
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
    """What a run found.

    Args:
        contestants: The original, its ghost and, where the network can be narrowed, its rival.
        ghost_over_narrow: Latency of the ghost over that of the rival.
        explanation: Where the time of original and ghost went, layer by layer; None where no engine told.
        setting: Network, data, recipe and machine.
        notes: What could not be done, or not well, in sentences.
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
        """What the figures say, in sentences."""
        original, ghost, *rest = self.contestants
        sentences = [start(self.setting, original), gain(ghost, original, ghost.latency)]
        sentences += [gain(ghost, rival, self.ghost_over_narrow) for rival in rest]
        return sentences + self.notes


def start(setting: dict[str, Any], original: Contestant) -> str:
    """What the ghost began with and learned since, in a sentence."""
    kept, images = setting["calibration"]["val_top1"], setting["calibration"]["images"]
    known = original.history[-1].val_top1
    epochs = f"{setting['ghost_recipe']['epochs']} epochs with labels for the original's {setting['recipe']['epochs']}"
    if kept is None or known is None:
        return f"The ghost was made of the trained original with {images} images, and had {epochs}."
    shares = f"{100 * kept:.1f} % of the held-out images right, the original {100 * known:.1f} %"
    return f"Made of the trained original with {images} images and no labels, the ghost had {shares}; then {epochs}."


def gain(ghost: Contestant, other: Contestant, latency: Comparison | None) -> str:
    """The ghost against another network, in a sentence."""
    points = 100 * (ghost.score.top1 - other.score.top1)
    (low, high), (other_low, other_high) = ghost.score.interval, other.score.interval
    overlap = "the intervals overlap" if low <= other_high and other_low <= high else "the intervals are apart"
    share = ghost.counted.macs / other.counted.macs
    title = f"the {TITLES[other.name]}"
    time = latency.verdict(title, "the ghost") if latency else "latency was not compared"
    return f"Against {title}: {share:.2f} of its MACs, {points:+.1f} points of top-1 ({overlap}); {time}."


def run(
    build: Callable[[], nn.Module],
    data: ImageData,
    recipe: Recipe,
    out: Path,
    *,
    setting: dict[str, Any],
    ratio: int = 2,
    cheap_kernel_size: int = 3,
    cheap: Cheap = "pointwise",
    images: int = 1024,
    effort: Effort = "fast",
    ghost_epochs: int | None = None,
    device: str = "cpu",
    workers: int = 0,
    blocks: int = 30,
    resume: bool = False,
    progress: Progress | None = None,
) -> Proof:
    """Train a network, turn it into its ghost, train the same network made narrower instead; measure all three.

    The ghost starts from what the trained original knows, and the original teaches it. The narrower
    network has the ghost's MACs, starts from the random weights that the original started from, as far as
    it has them, and follows the original's recipe. The test images are used once, for the last weights.

    Args:
        build: Makes the original; called after seeding, so that it gives the same weights each time.
        recipe: Of original and narrower network; the ghost's peak learning rate is a tenth of it.
        out: Folder for ``metrics.json``, ``report.html``, the networks and the checkpoints.
        setting: What else to record, such as the names of network and data.
        ratio, cheap_kernel_size, cheap, effort: Of the ghost, see ``convert``.
        images: Training images to calibrate the ghost on.
        ghost_epochs: Of the ghost; None for half of the original's.
        blocks: Blocks timed of each network, see ``compare``.
        resume: Go on with trainings that began in ``out``.
    Raises:
        InputError: If network, data and settings do not go together, or ``out`` holds another run.
    """
    if (out / METRICS).exists() and not resume:
        raise InputError(f"{out} holds a finished run: choose another --out, or remove it")
    images_there = min(images, count_images(data.train))
    if images_there < FEWEST_IMAGES:
        raise InputError(f"{images_there} images to make the ghost with: expected at least {FEWEST_IMAGES}")
    shape = (3, data.image_size, data.image_size)
    ghost_recipe = replace(
        recipe,
        epochs=math.ceil(recipe.epochs / 2) if ghost_epochs is None else ghost_epochs,
        lr=recipe.lr * GHOST_LR,
        warmup_epochs=min(recipe.warmup_epochs, 0.5),
    )

    def fresh() -> nn.Module:
        torch.manual_seed(recipe.seed)
        return build()

    def trained(
        name: str, network: nn.Module, its_recipe: Recipe, teacher: Teacher | None = None, began: str = ""
    ) -> nn.Module:
        histories[name] = train(
            network,
            data,
            its_recipe,
            teacher=teacher,
            options=RunOptions(device, workers, out / "checkpoints" / f"{name}{began}.pt", resume),
            progress=renamed(progress, f"train {name}"),
        )
        save(network, out / f"{name}.safetensors", extra=data.preprocessing)
        return network

    histories: dict[str, list[Epoch]] = {}
    check_fit(fresh(), data)
    # What cannot become a ghost is refused now, not after an hour of training.
    convert(fresh(), ratio=ratio, cheap_kernel_size=cheap_kernel_size, cheap=cheap, input_shape=shape)
    networks = {"original": trained("original", fresh(), recipe)}
    ghost = convert(
        networks["original"],
        ratio=ratio,
        cheap_kernel_size=cheap_kernel_size,
        cheap=cheap,
        input_shape=shape,
        calibration=[batch.to(device) for batch in draw_inputs(data, images, recipe.seed, workers=workers)],
        effort=effort,
        seed=recipe.seed,
        progress=renamed(progress, "make the ghost"),
    ).model
    untaught = evaluate(ghost, data.val, data, device=device, workers=workers).top1 if data.val is not None else None
    # A ghost that was made otherwise is no beginning of this one's training.
    began = f", {effort} on {images} images"
    networks["ghost"] = trained("ghost", ghost, ghost_recipe, Teacher(networks["original"]), began)
    narrower, notes = make_narrower(fresh(), shape, count(ghost, shape).macs)
    if narrower is not None:
        networks["narrow"] = trained("narrow", narrower, recipe)

    # Measured one after the other, with nothing else running.
    example = torch.zeros(1, *shape, device=device)
    steps = 3 * len(networks) + 1
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        if progress:
            progress("measure", what, done, steps)
        done += 1

    contestants: list[Contestant] = []
    threads = torch.get_num_threads()
    for name, network in networks.items():
        network.eval().to(device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as in train
        tell(f"accuracy of the {name}")
        score = evaluate(network, data.test, data, device=device, workers=workers)
        tell(f"latency of the {name}")
        latency = (
            compare(networks["original"], network, example, threads=threads, blocks=blocks) if contestants else None
        )
        tell(f"memory of the {name}")
        memory = peak_memory_mb(network, example, threads=threads)
        counted = count(network, shape)
        contestants.append(Contestant(name, network, counted, histories[name], score, latency, memory))
    rival = (
        compare(networks["narrow"], networks["ghost"], example, threads=threads, blocks=blocks)
        if "narrow" in networks
        else None
    )
    tell("time by layer")
    explanation, unexplained = explain_by_layer(networks["original"], networks["ghost"], example, threads)
    if progress:
        progress("measure", "done", steps, steps)

    setting = {
        **setting,
        "recipe": asdict(recipe),
        "ghost_recipe": asdict(ghost_recipe),
        "ratio": ratio,
        "cheap_kernel_size": cheap_kernel_size,
        "cheap": cheap,
        "calibration": {"images": images, "effort": effort, "val_top1": untaught},
        "environment": describe_environment(device),
    }
    disturbed = disturbance(setting["environment"])
    notes += unexplained + [disturbed] * bool(disturbed)
    proof = Proof(contestants, rival, explanation, setting, notes)
    with replacing(out / METRICS) as temporary:
        temporary.write_text(json.dumps(proof.metrics(), indent=2) + "\n")
    write_report(
        out / REPORT, proof.metrics(), proof.findings(), networks["original"], networks["ghost"], data, explanation
    )
    return proof


def explain_by_layer(
    original: nn.Module, ghost: nn.Module, example: Tensor, threads: int
) -> tuple[Explanation | None, list[str]]:
    """Where the time goes in OpenVINO on the CPU, or what stands against telling, in a sentence."""
    try:
        before, after = (copy.deepcopy(network).cpu() for network in (original, ghost))
        return explain(before, after, example.cpu(), engine="openvino", threads=threads), []
    except ModuleNotFoundError as error:
        return None, [f"Time by layer needs {error.name}: pip install 'ghostify[export]'."]
    except InputError as error:
        return None, [f"Time by layer is not known: {error}."]


def make_narrower(model: nn.Module, shape: tuple[int, int, int], macs: int) -> tuple[nn.Module | None, list[str]]:
    """The same network with fewer maps, or what stands against that, in a sentence."""
    try:
        return narrow(model, shape, macs), []
    except InputError as error:
        return None, [f"No narrower rival: {error}."]


def renamed(progress: Progress | None, task: str) -> Progress | None:
    """The same, under another task's name."""
    if progress is None:
        return None
    return lambda _, detail, done, total: progress(task, detail, done, total)
