"""Networks by name: ours, torchvision's, timm's and the user's own."""

import copy
import difflib
import importlib
import importlib.metadata
import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torchvision
from torch import nn

from ghostify.errors import InputError, offered, python_spelling, spelled
from ghostify.models import ghostnet, mobilenet, resnet, vgg
from ghostify.models.detectors import DETECTORS, detector
from ghostify.models.reference import split_reference
from ghostify.needed import missing
from ghostify.wrappers import unwrapped

MODELS: dict[str, Callable[..., nn.Module]] = {
    "ghostnet_050": partial(ghostnet.GhostNet, 0.5),
    "ghostnet_100": partial(ghostnet.GhostNet, 1.0),
    "ghostnet_110": partial(ghostnet.GhostNet, 1.1),
    "ghostnet_130": partial(ghostnet.GhostNet, 1.3),
    "vgg16_cifar": vgg.vgg16_cifar,
    "ghost_vgg16_cifar": vgg.ghost_vgg16_cifar,
    "resnet20": partial(resnet.resnet_cifar, 3),
    "resnet56": partial(resnet.resnet_cifar, 9),
    "ghost_resnet20": partial(resnet.ghost_resnet_cifar, 3),
    "ghost_resnet56": partial(resnet.ghost_resnet_cifar, 9),
    "vgg16_bn": torchvision.models.vgg16_bn,
    "ghost_vgg16_bn": vgg.ghost_vgg16_bn,
    "resnet50": torchvision.models.resnet50,
    "ghost_resnet50": resnet.ghost_resnet50,
    "mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
    "ghost_mobilenet_v3_large": mobilenet.ghost_mobilenet_v3_large,
}
CIFAR_MODELS = frozenset(name for name in MODELS if name.endswith(("_cifar", "resnet20", "resnet56")))

# Options by which builders are told the side of their images, pixels.
SIZES = ("img_size", "image_size", "input_size")


@dataclass(frozen=True)
class Origin:
    """How a network was built: enough to build it again.

    Args:
        name: A name of ``list_models()``, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``.
        options: Keyword arguments of the builder, JSON values only.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """``(channels, height, width)`` of the images that the network was designed for; None where nobody says."""
        shape = designed_shape(self.name)
        if shape is None:
            return None
        size = next((self.options[name] for name in SIZES if name in self.options), shape[1:])
        height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
        return self.options.get("in_chans", shape[0]), height, width

    def build(self, *, given: Collection[str] = (), quiet: bool = True) -> nn.Module:
        """A new network with random weights, which remembers this origin, without wrappers, see ``unwrapped``.

        Args:
            given: Options that whoever asks gave beside the name; messages spell the others as the builder does.
            quiet: See ``unwrapped``.
        """
        builder = find_builder(self.name)
        refuse_unknown_options(self.name, builder, self.options, given)
        try:
            model = builder(**self.options)
        except (Exception, SystemExit) as error:  # whatever a builder raises
            options = ", ".join(
                spelled(option, value) if option in given else python_spelling(option, value)
                for option, value in self.options.items()
            )
            with_options = f" with {options}" if options else ""
            raise InputError(f"{self.name} cannot be built{with_options}: {first_line(error)}") from error
        if not isinstance(model, nn.Module):
            raise InputError(f"{self.name} returned {type(model).__name__}: expected a torch.nn.Module")
        model = unwrapped(model, quiet=quiet)
        remember_origin(model, self)
        return model


def create_model(name: str, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: A name of ``list_models()`` or ``list_detectors()``, ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:factory``, a callable of the user's that returns a module; each may have options of its
            builder behind it, such as ``nets:small?width=0.5&depths=2,3``.
        num_classes: Outputs; None leaves the builder's default.
        options: Passed to the builder; ghost builders take ``ratio`` and ``cheap_kernel_size``.
    Raises:
        InputError: If there is no such network or it takes no such option.
    Example:
        >>> create_model("ghost_resnet20", num_classes=3, ratio=4).linear.out_features
        3
    """
    if num_classes is not None:
        options["num_classes"] = num_classes
    origin = origin_of(name)
    for option in origin.options.keys() & options.keys():
        if origin.options[option] != options[option]:
            raise InputError(f"{name} has another {option} than {options[option]!r}, which is given, too: expected one")
    model = Origin(origin.name, origin.options | options).build(given=options.keys(), quiet=False)
    trust(origin.name)
    return model


def origin_of(reference: str) -> Origin:
    """The origin that a name says, with the options behind it."""
    return Origin(*split_reference(reference))


def trust(name: str) -> None:
    """Let files name this builder, too: the user has run it in this process."""
    _run_by_user.add(name)


def is_trusted(name: str) -> bool:
    """True for a builder that runs on a file's word: a library's, or one that the user has run in this process."""
    return name in MODELS or name in DETECTORS or name.startswith(("torchvision:", "timm:")) or name in _run_by_user


_run_by_user: set[str] = set()


def find_builder(name: str) -> Callable[..., nn.Module]:
    """The callable behind a name; nothing is downloaded."""
    if name in MODELS:
        return MODELS[name]
    if name in DETECTORS:
        return partial(detector, create_model, *DETECTORS[name])
    source, _, rest = name.partition(":")
    if source == "torchvision":
        if rest not in torchvision_names():
            raise InputError(f"torchvision has no such model for images, {rest!r}{suggestion(name)}")
        takes = inspect.signature(torchvision.models.get_model_builder(rest)).parameters
        no_weights = dict.fromkeys(("weights", "weights_backbone") & takes.keys())
        return partial(torchvision.models.get_model, rest, **no_weights)
    if source == "timm":
        timm = imported_timm()
        if not timm.is_model(rest):
            raise InputError(f"timm has no model {rest!r}{suggestion(name)}")
        return partial(timm.create_model, rest, pretrained=False)
    if rest:
        return own_builder(source, rest)
    raise InputError(
        f"there is no network {name!r}{suggestion(name)}: "
        "expected a name from 'ghostify models', torchvision:NAME, timm:NAME, package.module:factory or a file"
    )


def own_builder(source: str, path: str) -> Callable[..., Any]:
    """The user's own callable of this name in a module; of a network that stands there, copies are made."""
    name = f"{source}:{path}"
    if "/" in source or source.endswith(".py"):
        raise InputError(f"{name}: {source!r} is a file's name: expected a module's, such as package.module:factory")
    found = import_module(
        source, lambda: f"{name}: there is no module {source!r} to import{suggestion(name, spelled_so=True)}"
    )
    place = getattr(found, "__file__", None) or "built in"
    for part in path.split("."):
        found = getattr(found, part, None)
    if isinstance(found, nn.Module):
        return partial(copy.deepcopy, found)
    if not callable(found):
        raise InputError(f"{name}: module {source!r} ({place}) has no callable {path!r}")
    return found  # the caller checks what it returns


def import_module(name: str, hint: Callable[[], str]) -> Any:
    """A module by name; the hint is for one that is not there, and made then."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name is not None and (error.name == name or name.startswith(f"{error.name}."))
        raise InputError(hint() if missing else f"{name} cannot be imported: {first_line(error)}") from error
    except (Exception, SystemExit) as error:  # it runs, and may raise anything
        wrong_name = not all(part.isidentifier() for part in name.split("."))
        raise InputError(hint() if wrong_name else f"{name} cannot be imported: {first_line(error)}") from error


def imported_timm() -> Any:
    return import_module("timm", lambda: str(missing("timm", "timm:NAME")))


def first_line(error: BaseException) -> str:
    """The kind of an error and what it says first; without the kind where the words are ours."""
    said = next((line for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, InputError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def refuse_unknown_options(
    name: str, builder: Callable[..., Any], options: dict[str, Any], given: Collection[str] = ()
) -> None:
    """Refuse options that the builder does not take, and those that would download weights or read them elsewhere.

    Args:
        name: The builder's.
        builder: Takes options as keyword arguments.
        options: All of them.
        given: See ``Origin.build``.
    """
    for option in ("weights", "weights_backbone", "pretrained", "checkpoint_path", "pretrained_cfg"):
        if options.get(option) not in (None, False):
            raise InputError(f"{name}: {option} is not taken here; load a local file with {spelled('weights')}")
    parameters = parameters_of(builder)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            own = option not in given
            known = parameters if own else [spelled(parameter) for parameter in parameters if offered(parameter)]
            asked = option if own else spelled(option)
            raise InputError(f"{name} takes no option {asked!r}: it takes {', '.join(known) or 'none'}")
    needed = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    if missing := [option for option in needed if option not in options]:
        example = "&".join(f"{option}=VALUE" for option in missing)
        raise InputError(f"{name} needs {', '.join(missing)}: expected {name}?{example}")


def takes_option(name: str, option: str) -> bool:
    """True if the builder behind a name takes an option that the name does not set."""
    origin = origin_of(name)
    if option in origin.options:
        return False
    parameters = parameters_of(find_builder(origin.name))
    return option in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def parameters_of(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A builder's parameters by name; empty for one without a signature, as one written in C may be."""
    try:
        return inspect.signature(builder).parameters
    except ValueError:
        return {}


def torchvision_names() -> list[str]:
    """torchvision's networks that take images: for classification, segmentation and detection."""
    rooms = (torchvision.models, torchvision.models.segmentation, torchvision.models.detection)
    return [name for room in rooms for name in torchvision.models.list_models(module=room)]


def designed_shape(name: str) -> tuple[int, int, int] | None:
    """``(channels, height, width)`` of the images that a library designed a network for."""
    source, _, rest = name.partition(":")
    if source == "torchvision":
        return torchvision_shape(rest)
    if source == "timm":
        return timm_shape(rest)
    side = 32 if name in CIFAR_MODELS else 224
    return (3, side, side) if name in MODELS else None


def torchvision_shape(name: str) -> tuple[int, int, int] | None:
    """The images that torchvision's own weights of a network are for."""
    weights = torchvision.models.get_model_weights(name) if name in torchvision_names() else None
    settings = getattr(getattr(getattr(weights, "DEFAULT", None), "transforms", None), "keywords", {})
    side = settings.get("crop_size", settings.get("resize_size"))
    return (3, side, side) if isinstance(side, int) else None


def designed_channels(name: str) -> dict[str, tuple[float, ...]]:
    """``mean`` and ``std`` by which a library's own weights of a network want photographs; nothing where none says."""
    source, _, rest = name.partition(":")
    if source == "torchvision" and rest in torchvision_names():
        default = getattr(torchvision.models.get_model_weights(rest), "DEFAULT", None)
        settings = getattr(getattr(default, "transforms", None), "keywords", {})
    elif source == "timm" and (config := imported_timm().get_pretrained_cfg(rest)):
        settings = {"mean": config.mean, "std": config.std}
    else:
        settings = {}
    return {name: tuple(settings[name]) for name in ("mean", "std") if len(settings.get(name) or ()) == 3}


def timm_shape(name: str) -> tuple[int, int, int] | None:
    """The images that timm's own weights of a network are for."""
    timm = imported_timm()
    settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return None if settings is None else tuple(settings.input_size)


def suggestion(name: str, *, spelled_so: bool = False) -> str:
    """Networks of nearly this name, ours, torchvision's and timm's where that is installed, in words.

    Args:
        name: The name, perhaps with another source in front of it, or with other capitals and underscores.
        spelled_so: Only those that are the same but for these.
    """
    source, _, rest = name.rpartition(":")
    bare = plain(rest.rpartition("/")[2].removeprefix("torchvision.models."))
    sources = {"": [*MODELS, *DETECTORS], "torchvision:": torchvision_names(), "timm:": installed_timm_names()}
    same, close = list[str](), list[str]()
    for prefix in sorted(sources, key=lambda prefix: prefix != f"{source}:"):
        known = {plain(one): one for one in sources[prefix]}
        same += [f"{prefix}{known[bare]}"] if bare in known else []
        close += [f"{prefix}{known[one]}" for one in difflib.get_close_matches(bare, list(known), n=2, cutoff=0.75)]
    found = same or ([] if spelled_so else close)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def plain(name: str) -> str:
    """A network's name without capitals, and what stands between its words.

    Example:
        >>> plain("ResNet_18")
        'resnet18'
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def installed_timm_names() -> list[str]:
    """timm's networks; none where it is not installed: a file of its name in the current folder is not run for this."""
    try:
        importlib.metadata.distribution("timm")
    except importlib.metadata.PackageNotFoundError:
        return []
    return importlib.import_module("timm").list_models()


def remember_origin(model: nn.Module, origin: Origin) -> None:
    try:
        json.dumps(origin.options)
    except TypeError:
        return  # such a network can be used, but not saved
    model.ghostify_origin = origin  # type: ignore[assignment]  # a note on the module, no part of its state


def known_origin(model: nn.Module) -> Origin | None:
    """The origin of a network that ``create_model`` built or a copy of it, else None."""
    origin = getattr(model, "ghostify_origin", None)
    return origin if isinstance(origin, Origin) else None
