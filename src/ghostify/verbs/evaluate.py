"""How often a network is right, in one call."""

import os

from torch import nn

from ghostify.data.images import ImageData
from ghostify.errors import InputError, spelled
from ghostify.inference.file_network import FileNetwork, FilePrecision
from ghostify.jobs.accelerator import chosen_device
from ghostify.jobs.evaluate import Score, check_fit
from ghostify.jobs.evaluate import evaluate as score_network
from ghostify.modes import on_device
from ghostify.needed import refuse_engine
from ghostify.plain_part import is_detector
from ghostify.verbs.prepared import Channels, images_for, refuse_unknown_classes


def evaluate(  # noqa: PLR0913  # the front door: the verb's options, each a setting of the user's
    model: nn.Module | str | os.PathLike[str],
    data: str | ImageData,
    *,
    image_size: int | None = None,
    mean: Channels = None,
    std: Channels = None,
    engine: str | None = None,
    precision: FilePrecision = "fp32",
    batch_size: int = 250,
    device: str = "auto",
    workers: int = 2,
) -> Score:
    """Score a network, or an exported file, on the test images of a data set, as ``ghostify evaluate`` does.

    Args:
        model: A network, left on its device and in its mode; or the path of an exported file, which runs on the CPU.
        data: A reference such as ``"npz:cifar10.npz"`` or ``"imagefolder:DIR"``, see ``load_data``, or what that gave.
        image_size: Side to which images of a folder are brought, pixels; None: the network's own.
        mean, std: Those of each channel, in 0..1, by which images are normalised; None: as the file says that the
            network was loaded from, else as is usual for the data.
        engine: "onnxruntime" or "openvino" for an exported file; None: the one that it was made for.
        precision: "fp32", or "bf16": by autocast, or by the engine of a file.
        batch_size: Images per forward pass.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        workers: Processes that decode images of a folder.
    Returns:
        Right answers by class, and of all ``top1``, its 95 % ``interval`` and ``top5``.
    Raises:
        InputError: If network and data do not go together, or there is no such data, device or engine.
    Example:
        >>> from ghostify import create_model, evaluate
        >>> score = evaluate(create_model("resnet20"), "digits", device="cpu")
        >>> score.images, 0 <= score.top1 <= 1
        (600, True)
    """
    if isinstance(model, str | os.PathLike):
        model = FileNetwork(model, engine=engine, precision=precision)
        refuse_engine(model.engine)
    elif engine is not None:
        raise InputError(f"{type(model).__name__} runs in PyTorch: {spelled('engine')} is for exported files")
    if is_detector(model):
        raise InputError(f"{type(model).__name__} finds objects: use ghostify.detect, with images that have boxes")
    if precision not in ("fp32", "bf16"):
        raise InputError(f"{spelled('precision')} is {precision!r}: expected fp32 or bf16")
    if batch_size < 1:
        raise InputError(f"{spelled('batch_size')} is {batch_size}: expected at least 1")
    device = chosen_device(device)
    images = images_for(model, data, image_size=image_size, mean=mean, std=std)
    refuse_unknown_classes(model, images)
    with on_device(model, device):
        check_fit(model, images)
        return score_network(
            model,
            images.test,
            images,
            device=device,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
        )
