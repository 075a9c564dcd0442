"""One road: a trained network and a speed in; a faster file, and the proof beside it, out."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify.data import ImageData
from ghostify.errors import InputError
from ghostify.inference.engines import FILE_ENGINES, check_engine
from ghostify.inference.export import ENGINE as ENGINE_OF
from ghostify.inference.export import FORMATS
from ghostify.jobs.accelerator import chosen_device
from ghostify.jobs.images_of_run import opened_data
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.road import Road, Run
from ghostify.jobs.run_settings import RunSettings, Tuning
from ghostify.modes import without_autocast, without_inference_mode
from ghostify.needed import is_installed, refuse_engine, refuse_missing
from ghostify.plain_part import is_detector
from ghostify.progress import Progress
from ghostify.transform.reconstruct import Effort
from ghostify.wrappers import unwrapped

ENGINE, ORIGINAL, MEASUREMENTS = "engine.json", "original", "measurements.jsonl"
FORMAT_OF = {ENGINE_OF[kind]: kind for kind in FORMATS}
CHECKED = 200  # images that a file is checked with
CALLS = 30  # that choose an engine
DISK = 12  # times the weights' bytes that a run writes


@without_inference_mode()
@without_autocast()
def run(  # noqa: PLR0913  # the front door: the promised names, each a setting of the user's
    model: nn.Module,
    data: str | ImageData | Iterable[Any],
    *,
    out: str | Path = "faster",
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
    device: str = "auto",
    workers: int = 2,
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
        rivals: Make, score and time the paper's ghost and the network pruned by Torch-Pruning, too, and where NNCF is
            installed the original and the faster network in int8.
        images: Training images to plan and convert with.
        effort: "refined", or "fast": see ``convert``.
        skip: Modules to leave, by name or pattern.
        recipe: Train the network first, with labels; None: it is trained.
        device: "cpu", "cuda" or "auto", to compute on; the engine runs on the CPU.
        workers: Processes that decode images of a folder.
        seed: Seed of all that is drawn.
        progress: Called with the progress of each step.
        say: Called with sentences on what is done, and for how long.
    Raises:
        InputError: If something cannot serve, before any work begins where that can be known; or the speed is out of
            reach (the message says what is in reach).
    """
    settings = RunSettings(
        target_speedup=target_speedup,
        max_accuracy_drop=max_accuracy_drop,
        sweep=sweep,
        int8=int8,
        tune=Tuning.of(tune),
        labels=labels,
        engine=engine,
        threads=threads,
        rivals=rivals,
        images=images,
        effort=effort,
        skip=(skip,) if isinstance(skip, str) else tuple(skip),
        recipe=recipe,
        device=chosen_device(device),
        workers=workers,
        seed=seed,
    )
    refuse_missing("matplotlib", "jinja2")
    precisions = ("int8",) if int8 else ()
    if engine is not None:
        check_engine(engine, FILE_ENGINES)
        refuse_engine(engine, *precisions)
    elif not any(map(is_installed, FILE_ENGINES)):
        refuse_engine(FILE_ENGINES[0], *precisions)
    # A copy of which all learns, whatever the caller holds still.
    model = copy.deepcopy(unwrapped(model)).cpu().eval().requires_grad_(True)
    refuse_nan(model)
    if is_detector(model):
        raise InputError(f"{type(model).__name__} finds objects: plan it, convert it by the plan, train it by detect")
    with torch.enable_grad(), torch.random.fork_rng([]):
        opened = opened_data(model, data, settings)
        return Road(model, opened, settings, Path(out), progress, say).go()


def refuse_nan(model: nn.Module) -> None:
    """Refuse weights that are no numbers."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{name} has NaN or infinite numbers: expected a trained network")
