"""The networks and images that a user names, opened."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import click
from torch import nn

from ghostify.data import ImageData, load_data
from ghostify.data.sources import FOLDERS
from ghostify.errors import InputError
from ghostify.inference.file_network import FileNetwork, FilePrecision, is_exported
from ghostify.measure.count import count
from ghostify.models.registry import Origin, designed_channels, origin_of, takes_option
from ghostify.models.weights import OtherHeadError
from ghostify.network_file import (
    NetworkFile,
    UnnamedFactoryError,
    channels_of,
    names_file,
    open_network,
    open_network_file,
)
from ghostify.plain_part import input_shape_of, is_detector
from ghostify.verbs.prepared import refuse_other_classes

Channels = tuple[float, ...] | None
NO_BUILDERS = ("model", "input_shape", "engine", "precision")  # fields that no builder takes


@dataclass(frozen=True)
class NamedNetwork:
    """A network as the user names it: MODEL, and the options that say how it is built and on which input it runs.

    Options that are None are the builder's to choose. A file is opened once, however often it is asked.

    Args:
        model: A name, or a file that ``save`` wrote.
        weights: A state dict's file.
        factory: The user's own builder that a file may name.
        new_head: The last layer is left out of the weights.
        num_classes: Outputs.
        ratio, cheap_kernel_size: Those of a ghost network's builder.
        input_shape: One input without batch; None: the network's own.
    """

    model: str
    weights: Path | None = None
    factory: str | None = None
    new_head: bool | None = None
    num_classes: int | None = None
    ratio: int | None = None
    cheap_kernel_size: int | None = None
    input_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if is_exported(self.model) and not isinstance(self, NamedNetworkOrFile):
            raise InputError(
                f"{self.model} is an exported file, which `ghostify evaluate` and `ghostify compare` take: "
                "expected the network that it was made of"
            )

    @cached_property
    def file(self) -> NetworkFile | None:
        """The file, open; None for a name."""
        return open_network_file(self.model) if names_file(self.model) else None

    @property
    def extra(self) -> dict[str, Any]:
        """The values that a file keeps beside its network, such as its preprocessing."""
        return self.file.extra if self.file else {}

    @property
    def channels(self) -> dict[str, tuple[float, ...]]:
        return channels_of(self.model, self.extra)

    @property
    def channels_of_photographs(self) -> dict[str, tuple[float, ...]]:
        return designed_channels(self.origin.name) | self.channels

    @property
    def options(self) -> dict[str, Any]:
        """The builder's options that the user set."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {n: v for n, v in fields.items() if v is not None and n not in NO_BUILDERS}

    @cached_property
    def origin(self) -> Origin:
        """The builder and its options; nothing is built."""
        return self.file.blueprint().origin if self.file else origin_of(self.model)

    @property
    def designed_shape(self) -> tuple[int, ...] | None:
        """One input without batch, as the file says, else as the network was designed; None where neither is known."""
        shape, side = self.extra.get("input_shape"), self.extra.get("image_size")
        if shape is not None:
            if not isinstance(shape, list) or len(shape) != 3 or not all(type(size) is int for size in shape):
                raise InputError(f"{self.model} says that its inputs are {shape!r}: give --input-shape")
            return tuple(shape)
        return (3, side, side) if isinstance(side, int) else self.origin.input_shape

    @property
    def side(self) -> int | None:
        """Side of square images; None where it is not known, or they are not square."""
        height, width = (self.designed_shape or (None, None))[-2:]
        return height if height == width else None

    def open(self) -> nn.Module:
        """Build the network; what would help where it does not fit is said in the options of the verb that runs."""
        try:
            return open_network(self.file or self.model, **self.options)
        except UnnamedFactoryError as error:
            raise InputError(f"{error.what}: add --factory {error.factory}") from error
        except OtherHeadError as error:
            remedies = ["--new-head leaves it out"] if offers("--new-head") else []
            if error.classes is not None and offers("--num-classes") and not self.file:
                remedies.append(f"--num-classes {error.classes} builds the network for as many")
            raise InputError(": ".join([error.what, *([" or ".join(remedies)] if remedies else [])])) from error

    def open_for(self, data: ImageData) -> nn.Module:
        """The network, with as many outputs as the data has classes where that is left open."""
        network = self.with_classes(len(data.classes)).open()
        if is_detector(network):
            raise InputError(f"{self.model} finds objects: use `ghostify detect`, with images that have boxes")
        return network

    def with_classes(self, classes: int) -> Self:
        """The same, with as many outputs as there are classes where that is left open and the builder's to choose."""
        if self.file or not takes_option(self.model, "num_classes") or self.num_classes is not None:
            return self
        return dataclasses.replace(self, num_classes=classes)

    def shape(self, network: nn.Module) -> tuple[int, ...]:
        """The input that the user named, else the one that the network is made for.

        That is said by its file or its builder; of a detector it is its plain part's.

        Raises:
            InputError: If none of them says.
        """
        if self.input_shape:
            return self.input_shape
        if is_detector(network):
            return input_shape_of(network)
        if self.designed_shape is None:
            data = ", or --data" if offers("--data") else ""
            raise InputError(
                f"{self.model} does not say how large its inputs are: expected --input-shape, such as 3,224,224{data}"
            )
        return self.designed_shape

    def checked_shape(self, network: nn.Module, *others: nn.Module) -> tuple[int, ...]:
        """The same; refused where the network or one of the others cannot take it."""
        shape = self.shape(network)
        for each in (network, *others):
            if not isinstance(each, FileNetwork):
                count(each, shape)
        return shape

    def refuse_other_classes(self, data_name: str, classes: tuple[str, ...]) -> None:
        """Refuse labels that count other classes than the network's file, or in another order.

        Where one of both has numbers for names, as ``npz:`` has, they cannot be compared.
        """
        refuse_other_classes(self.model, self.extra.get("classes"), data_name, classes)


@dataclass(frozen=True)
class NamedNetworkOrFile(NamedNetwork):
    """The same, or an exported file.

    Args:
        engine: Engine of an exported file; None: the one that it was made for.
        precision: "fp32", or "bf16" in an engine that computes in it by itself.
    """

    engine: str | None = None
    precision: FilePrecision = "fp32"

    @cached_property
    def exported(self) -> FileNetwork | None:
        """The exported file; None for another network.

        Raises:
            InputError: If options say how the network of a file is built.
        """
        if not is_exported(self.model):
            return None
        idle = [f"--{name.replace('_', '-')}" for name in self.options]
        if idle:
            raise InputError(
                f"{self.model} is an exported file, which says all about its network: leave out {', '.join(idle)}"
            )
        return FileNetwork(self.model, engine=self.engine, precision=self.precision)

    @property
    def extra(self) -> dict[str, Any]:
        return dict(self.exported.about.get("preprocessing", {})) if self.exported else super().extra

    @property
    def channels_of_photographs(self) -> dict[str, tuple[float, ...]]:
        return self.channels if self.exported else super().channels_of_photographs

    @property
    def designed_shape(self) -> tuple[int, ...] | None:
        return self.exported.input_shape if self.exported else super().designed_shape

    def open(self) -> nn.Module:
        return self.exported or super().open()

    def with_classes(self, classes: int) -> Self:
        return self if self.exported else super().with_classes(classes)


@dataclass(frozen=True)
class NamedImages:
    """Labelled images as the user names them: DATA, how they are prepared, and on which device they are computed.

    Args:
        data_name: DATA; None where a verb can do without.
        image_size: Side of a folder's images, pixels; None: the network file's.
        mean, std: Those of each channel, in 0..1; None: the network file's, else the data's.
        device: "cpu" or "cuda".
        workers: Processes that decode images of a folder.
        hold_out: Share of the training images held out.
    """

    data_name: str | None = None
    image_size: int | None = None
    mean: Channels = None
    std: Channels = None
    device: str = "cpu"
    workers: int = 0
    hold_out: float = 0.0

    def open(self, network: NamedNetwork) -> ImageData:
        """The images, sized and normalised as the user says, else as the network's file says, where it does.

        Photographs are else normalised as a library's own weights of the network want them.
        """
        if self.data_name is None:
            raise InputError("expected images: name them with --data")
        image_size = self.image_size
        photographs = self.data_name.partition(":")[0] in FOLDERS
        if photographs:
            image_size = image_size or network.side
            if image_size is None:
                raise InputError(
                    f"{network.model} does not say how large its images are: expected --image-size, such as 224"
                )
        data = load_data(self.data_name, image_size=image_size, hold_out=self.hold_out)
        return dataclasses.replace(data, **channels_for(network, self.mean, self.std, data, photographs=photographs))


def offers(option: str) -> bool:
    """True where the verb that runs has this option."""
    context = click.get_current_context(silent=True)
    return context is not None and any(option in parameter.opts for parameter in context.command.params)


def channels_for(
    network: NamedNetwork, mean: Channels, std: Channels, usual: Any, *, photographs: bool = True
) -> dict[str, Any]:
    """``mean`` and ``std`` as the user says, else as the network's file says, else those of ``usual``.

    Args:
        photographs: Before ``usual``, take those of a library's own weights of the network.
    """
    known: dict[str, Any] = {}
    if not (mean and std):
        known = network.channels_of_photographs if photographs else network.channels
    return {"mean": mean or known.get("mean", usual.mean), "std": std or known.get("std", usual.std)}
