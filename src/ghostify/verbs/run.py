"""One road: a trained network and a speed in; a faster file, and the proof beside it, out."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify.data import ImageData
from ghostify.data.coco import DetectionData, load_coco
from ghostify.data.masks import PARTS, MaskData
from ghostify.data.own import data_from_batches
from ghostify.data.sources import FOLDERS
from ghostify.errors import InputError, spelled
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.inference.engines import FILE_ENGINES, check_engine
from ghostify.jobs.accelerator import chosen_device
from ghostify.jobs.boxes_of_run import BoxesOfRun, boxes_of_run
from ghostify.jobs.classes_of_run import ClassesOfRun
from ghostify.jobs.images_of_run import HELD_OUT, Data
from ghostify.jobs.masks_of_run import MasksOfRun
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.road import Road, Run
from ghostify.jobs.run_settings import RunSettings, Tuning
from ghostify.modes import without_autocast, without_inference_mode
from ghostify.needed import is_installed, refuse_engine, refuse_missing
from ghostify.plain_part import is_detector
from ghostify.progress import Progress
from ghostify.transform.reconstruct import Effort
from ghostify.verbs.prepared import Channels, designed_shape, images_for, kept_beside, masks_for, refuse_unknown_classes
from ghostify.wrappers import unwrapped

USUAL_SIDE = 224  # pixels, where neither the network nor the caller says


@without_inference_mode()
@without_autocast()
def run(  # noqa: PLR0913  # the front door: the promised names, each a setting of the user's
    model: nn.Module,
    data: str | ImageData | MaskData | DetectionData | Iterable[Any],
    *,
    test: Iterable[Any] | None = None,
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
    image_size: int | None = None,
    mean: Channels = None,
    std: Channels = None,
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
        model: A network that classifies, names the class of each pixel, or is one of torchvision's detectors; left
            untouched.
        data: A data set's reference, such as "imagefolder:DIR", "voc:DIR" or "coco:DIR"; an open data set with images
            held out; or, for classes, batches of normalised inputs ``[batch, channels, height, width]``, or of pairs of
            these and labels, of which a tenth is held out. Without labels right is what the network itself answers.
            The score is top-1, mean intersection over union, or COCO's average precision.
        test: Batches that judge, beside batches; None: another tenth of these.
        out: Folder for the files, ``network.safetensors``, ``plan.json``, ``metrics.json`` and ``report.html``.
        target_speedup: How many times as fast as the original in float32; or
        max_accuracy_drop: the fastest that loses no more points of the score on held-out images before it learns; or
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
        image_size: Side to which images of a reference are brought, pixels; None: as the network's file or builder
            says, else 224. A detector has its own.
        mean, std: Those of each channel, in 0..1, of a reference; None: as the network's file says, else ImageNet's.
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
    with torch.enable_grad(), torch.random.fork_rng([]):
        opened = data_of_run(model, data, image_size, mean, std, test)
        check_data(model, opened, settings)
        return Road(model, opened, settings, Path(out), progress, say).go()


def refuse_nan(model: nn.Module) -> None:
    """Refuse weights that are no numbers."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{name} has NaN or infinite numbers: expected a trained network")


def data_of_run(
    model: nn.Module,
    data: Any,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    test: Iterable[Any] | None = None,
) -> Data:
    """The images, whatever the caller has."""
    if test is not None and isinstance(data, str | ImageData | MaskData | DetectionData | Data):
        raise InputError(f"{spelled('test')}: {spelled('data')} has test images of its own: leave it out")
    if isinstance(data, Data):
        return data
    extra = kept_beside(model)
    if is_detector(model):
        if (image_size, mean, std) != (None, None, None):
            name = next(name for name, value in (("image_size", image_size), ("mean", mean), ("std", std)) if value)
            raise InputError(f"{spelled(name)}: a detector has its own, leave it out")
        refuse_missing("pycocotools")
        found = load_coco(data, hold_out=HELD_OUT) if isinstance(data, str) else data
        if not isinstance(found, DetectionData):
            raise InputError(f"{type(model).__name__} finds objects: expected images with boxes, such as coco:DIR")
        return boxes_of_run(found, model, extra)
    sized: dict[str, Any] = {"image_size": image_size, "mean": mean, "std": std}
    if isinstance(data, str) and image_size is None and data.partition(":")[0] in (*FOLDERS, *PARTS):
        height, width = (designed_shape(model) or (None, None))[-2:]
        sized["image_size"] = height if height is not None and height == width else USUAL_SIDE
    if isinstance(data, MaskData) or (isinstance(data, str) and data.partition(":")[0] in PARTS):
        masks = masks_for(model, data, **sized, hold_out=HELD_OUT)
        return MasksOfRun(masks, preprocessing={**extra, **masks.preprocessing})
    if isinstance(data, str | ImageData):
        images = images_for(model, data, **sized, hold_out=HELD_OUT)
        return ClassesOfRun(images, preprocessing={**extra, **images.preprocessing})
    if isinstance(data, DetectionData) or not isinstance(data, Iterable):
        raise InputError(
            f"{spelled('data')} is a {type(data).__name__}: expected batches, or a reference such as imagefolder:DIR"
        )
    batches = list(data)
    labelled = any(isinstance(batch, tuple | list) and len(batch) > 1 for batch in batches)
    return ClassesOfRun(data_from_batches(batches, model, test=test), labelled)


def check_data(model: nn.Module, data: Data, settings: RunSettings) -> None:
    """Refuse images that the run could not go on with."""
    if data.images.val is None:
        raise InputError(f"{spelled('data')}: rates are chosen by images held out of train: expected some")
    if (settings.labels or settings.recipe) and not data.labelled:
        raise InputError(f"{spelled('data')} has no labels to learn from: leave {spelled('labels')} out")
    if settings.rivals and isinstance(data, BoxesOfRun):
        raise InputError(f"{spelled('rivals')}: Torch-Pruning does not end on a detector: leave it out")
    if data.labelled and data.preprocessing:
        refuse_unknown_classes(model, data.images)
    enough = min(settings.images, data.sizes[0])
    if enough < FEWEST_IMAGES:
        raise InputError(f"{enough} training images: expected at least {FEWEST_IMAGES}, better some hundreds")
    data.check(model)
