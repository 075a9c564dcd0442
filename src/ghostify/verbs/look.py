"""Which maps of a layer are ghosts of which, in one call."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ghostify.data.augment import normalise
from ghostify.data.images import ImageData
from ghostify.data.photograph import SAMPLE, photograph
from ghostify.errors import InputError, spelled
from ghostify.jobs.look import SeenLayer, layers_to_pick
from ghostify.jobs.look import look as look_at
from ghostify.measure.count import count
from ghostify.needed import refuse_missing
from ghostify.progress import Progress
from ghostify.verbs.prepared import Channels, channels_for, designed_shape, name_of


def look(  # noqa: PLR0913  # the front door: the verb's options, each a setting of the user's
    model: nn.Module,
    image: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] = (),
    against: nn.Module | None = None,
    input_shape: tuple[int, ...] | None = None,
    mean: Channels = None,
    std: Channels = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[SeenLayer]:
    """Find which maps of a network's layers are nearly copies of others, as ``ghostify look`` does.

    Args:
        model: The network, on the CPU.
        image: A photograph's file; None: one that scikit-learn brings.
        layers: Names of modules, such as "layer1.0.conv1", or patterns such as "layer1.*"; without any, the ends of the
            network's stages.
        against: A ghost of the network, whose maps are put beside.
        input_shape: Channels, height and width of one input; None: the network's own.
        mean, std: Those of each channel, in 0..1, by which the photograph is normalised; None: the network's, else
            ImageNet's.
        out: Folder for a page to look at, ``look.html``, and the pictures of its first layer, which needs matplotlib
            and jinja2; None: nothing is written.
        progress: Called for each layer.
    Returns:
        For each layer its maps, the most similar pairs of them, and how much of all some of them explain.
    Raises:
        InputError: If there is no such image or layer, or it makes no maps that can be compared.
    Example:
        >>> from ghostify import create_model, look
        >>> (layer,) = look(create_model("resnet20"), layers=["layer1.0.conv1"])
        >>> tuple(layer.maps.shape), len(layer.pairs[3])
        ((16, 32, 32), 8)
    """
    if out is not None:
        refuse_missing("matplotlib", "jinja2")
    shape = input_shape or designed_shape(model)
    if shape is None:
        raise InputError(
            f"{name_of(model)} does not say how large its inputs are: expected {spelled('input_shape')}, "
            "such as (3, 224, 224)"
        )
    if len(shape) != 3 or shape[0] != 3:
        raise InputError(f"the input shape is {shape}: expected 3 channels, height and width, for a photograph")
    for network in (model, against):
        if network is not None:
            count(network, shape)  # refused where it cannot take it
    path = None if image is None else Path(image)
    pixels = photograph(path, *shape[1:])
    x = normalise(pixels, **channels_for(model, ImageData, mean, std, photographs=True))
    found = look_at(model, x, layers, against=against, progress=progress)
    if out is not None:
        from ghostify.jobs import look_page  # here: drawing and templates are an extra that most calls spare

        look_page.write_look(
            Path(out),
            found,
            title=name_of(model),
            image=SAMPLE if path is None else path.name,
            photograph=pixels[0],
            others=layers_to_pick(model, x),
            against=None if against is None else name_of(against),
        )
    return found
