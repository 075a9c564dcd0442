"""The loss by which a changed network learns of its original without labels, for any training loop."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, first_sentence
from ghostify.fitting.refine import has_numbers, hints_distance
from ghostify.modes import evaluating
from ghostify.plain_part import is_detector
from ghostify.structure.blocks import ends_of
from ghostify.structure.surgery import tensors_in
from ghostify.transform.match import match_ends
from ghostify.wrappers import unwrapped

IMAGES_TO_MATCH = 128  # on which the network's maps are matched with the original's


class Hinted(NamedTuple):
    """The loss of a batch, and what the network returned for it.

    Args:
        loss: Distance from the original, a scalar; 0 is the same.
        outputs: The network's own outputs, such as logits ``[batch, classes]``, to log them or to add a loss by labels.
    """

    loss: Tensor
    outputs: Any


class Hints(nn.Module):
    """The loss of a network that learns its original's outputs and the ends of its blocks; ``hints`` makes it.

    Its parameters that learn are the network's. The original's copy is frozen and in eval mode, also under ``train()``.
    It can be pickled and copied where the networks can: hooks are on them only while a batch runs.

    Args:
        original: Taken as it is, frozen and put into eval mode.
        model: The network that learns; its mode is left to the loop.
        ends: Names of blocks, and indices of the original's channels there; None for all, in order.
    Attributes:
        model: The network that learns.
        original: The original's copy.
    """

    def __init__(self, original: nn.Module, model: nn.Module, ends: dict[str, Tensor | None]) -> None:
        super().__init__()
        self.model, self.original = model, original.requires_grad_(False)
        self.names = tuple(ends)
        for index, rows in enumerate(ends.values()):
            # As a buffer it goes to the device with the networks; no name of one may have the dots of a module's.
            self.register_buffer(f"channels{index}", rows, persistent=False)
        self.training = model.training
        self.original.eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.original.eval()
        return self

    @property
    def ends(self) -> dict[str, Tensor | None]:
        """Names of the blocks that are compared, and the original's channel for each of the network's there."""
        return {name: getattr(self, f"channels{index}") for index, name in enumerate(self.names)}

    def forward(self, x: Tensor) -> Hinted:
        """Run both networks on a batch ``[batch, channels, height, width]``."""
        ends = self.ends
        with ends_of(self.original, ends) as targets, ends_of(self.model, ends) as given:
            with torch.no_grad():
                target = self.original(x.clone())  # a network may normalise what it gets in place
            outputs = self.model(x)
            return Hinted(hints_distance(outputs, target, ends, given, targets), outputs)

    def extra_repr(self) -> str:
        return f"ends of {len(self.names)} blocks"


def hints(original: nn.Module, model: nn.Module, batches: Iterable[Tensor]) -> Hints:
    """The loss by which a changed network learns to compute what its original does, for a training loop of one's own.

    Called with a batch of inputs it runs both networks, and returns the loss and the network's outputs. The loss is the
    distance of the outputs and that of the ends of the blocks that both have: mean squared error over variance (Romero
    et al. 2015, arXiv:1412.6550). No labels are needed. It is what ``Teacher(hints=True, weight=1)`` has ``train``
    learn.

    Args:
        original: The network that the other was made of; left untouched: its copy is on the other's device.
        model: The network that learns, such as the ``model`` of a conversion. It is not copied.
        batches: Some inputs ``[batch, channels, height, width]`` as the networks take them, without labels. On the
            first 128 images channels are matched, which may leave blocks in another order than the original's, or be
            fewer.
    Raises:
        InputError: If the networks do not belong together, cannot take the batches, or find objects.
    Example:
        >>> from ghostify import convert, create_model, hints
        >>> original = create_model("resnet20")
        >>> model = convert(original, ratio=2).model
        >>> loss_of = hints(original, model, [torch.randn(16, 3, 32, 32)])
        >>> optimizer = torch.optim.AdamW(loss_of.model.parameters(), lr=1e-3)
        >>> loss, logits = loss_of(torch.randn(8, 3, 32, 32))
        >>> loss.backward()
        >>> optimizer.step()
        >>> logits.shape, any(p.grad is not None for p in original.parameters())
        (torch.Size([8, 10]), False)
    """
    original, model = unwrapped(original), unwrapped(model)
    if is_detector(original) or is_detector(model):
        raise InputError("hints are for networks that take one tensor: a detector learns by `ghostify.detect.train`")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    original = copy.deepcopy(original).to(device)
    inputs = [batch.to(device) for batch in inputs_to_match(batches)]
    refuse_strangers(original, model, inputs[0][:2])
    return Hints(original, model, match_ends(original, model, inputs))


def inputs_to_match(batches: Iterable[Any]) -> list[Tensor]:
    """The first images, in small batches: all their maps are compared at once."""
    found: list[Tensor] = []
    images = 0
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.ndim != 4:
            raise InputError("batches: expected batches of inputs [batch, channels, height, width], without labels")
        found += batch[: IMAGES_TO_MATCH - images].split(16)
        images += len(batch)
        if images >= IMAGES_TO_MATCH:
            break
    if images < 2:
        raise InputError(f"batches: {images} images: expected at least two, better some hundreds")
    return found


def refuse_strangers(original: nn.Module, model: nn.Module, x: Tensor) -> None:
    """Refuse two networks that cannot take the same input, or whose outputs cannot be compared."""
    outputs = []
    with evaluating(original, model), torch.no_grad():
        for name, network in (("original", original), ("model", model)):
            try:
                outputs.append(tensors_in(network(x.clone())))
            except Exception as error:  # whatever the network's own code raises
                raise InputError(
                    f"the {name}, {type(network).__name__}, cannot take the batches, {list(x.shape[1:])} each: "
                    f"{first_sentence(error)}"
                ) from error
    shapes = [[list(output.shape) for output in each] for each in outputs]
    if shapes[0] != shapes[1]:
        told = [", ".join(map(str, each)) or "no tensor" for each in shapes]
        raise InputError(f"the original returns {told[0]}, the model {told[1]}: expected a network and one made of it")
    if not any(has_numbers(*pair) for pair in zip(*outputs, strict=True)):
        raise InputError("the networks return no numbers that can be compared: expected tensors of floating point")
