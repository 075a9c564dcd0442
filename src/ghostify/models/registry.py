"""Networks by name: ours, torchvision's, timm's and the user's own."""

import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torchvision
from torch import nn

from ghostify.errors import InputError, offered, spelled
from ghostify.models import ghostnet, mobilenet, resnet, vgg
from ghostify.models.detectors import DETECTORS, detector

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
    def input_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the images that the network was designed for."""
        size = 32 if self.name in CIFAR_MODELS else 224
        return 3, size, size

    def build(self) -> nn.Module:
        """A new network with random weights, which remembers this origin."""
        builder = find_builder(self.name)
        refuse_unknown_options(self.name, builder, self.options)
        try:
            model = builder(**self.options)
        except Exception as error:  # whatever a builder raises
            reason = str(error).partition("\n")[0] or type(error).__name__
            options = ", ".join(spelled(option, value) for option, value in self.options.items())
            with_options = f" with {options}" if options else ""
            raise InputError(f"{self.name} cannot be built{with_options}: {reason}") from error
        if not isinstance(model, nn.Module):
            raise InputError(f"{self.name} returned {type(model).__name__}: expected a torch.nn.Module")
        remember_origin(model, self)
        return model


def list_models() -> list[str]:
    """The names of the networks that ``create_model`` builds, without detectors.

    Example:
        >>> "ghostnet_100" in list_models()
        True
    """
    return list(MODELS)


def list_detectors() -> list[str]:
    """The names of the detectors that ``create_model`` builds.

    Example:
        >>> "retinanet_ghostnet_110_fpn" in list_detectors()
        True
    """
    return list(DETECTORS)


def create_model(name: str, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: A name of ``list_models()`` or ``list_detectors()``, ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:factory``, a callable of the user's that returns a module.
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
    return Origin(name, options).build()


def find_builder(name: str) -> Callable[..., nn.Module]:
    """The callable behind a name; nothing is downloaded."""
    if name in MODELS:
        return MODELS[name]
    if name in DETECTORS:
        return partial(detector, create_model, *DETECTORS[name])
    source, _, rest = name.partition(":")
    if source == "torchvision":
        known = torchvision.models.list_models(module=torchvision.models)
        if rest not in known:
            raise InputError(f"torchvision has no classification model {rest!r}{suggestion(rest, known)}")
        return partial(torchvision.models.get_model, rest, weights=None)
    if source == "timm":
        timm = import_module("timm", "timm:NAME needs timm: pip install timm")
        if not timm.is_model(rest):
            raise InputError(f"timm has no model {rest!r}{suggestion(rest, timm.list_models())}")
        return partial(timm.create_model, rest, pretrained=False)
    if rest:
        module = import_module(source, f"{name}: there is no module {source!r} to import")
        factory = getattr(module, rest, None)
        if not callable(factory):
            place = getattr(module, "__file__", None) or "built in"
            raise InputError(f"{name}: module {source!r} ({place}) has no callable {rest!r}")
        return factory  # the caller checks what it returns
    raise InputError(
        f"there is no network {name!r}{suggestion(name, (*MODELS, *DETECTORS))}: "
        "expected a name from 'ghostify models', torchvision:NAME, timm:NAME, package.module:factory or a file"
    )


def import_module(name: str, hint: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name or name.startswith(f"{error.name}."):
            raise InputError(hint) from error
        raise
    except (TypeError, ValueError) as error:  # a relative or an empty module name
        raise InputError(hint) from error


def refuse_unknown_options(name: str, builder: Callable[..., Any], options: dict[str, Any]) -> None:
    """Refuse options that the builder does not take, and those that would download weights or read them elsewhere."""
    for option in ("weights", "weights_backbone", "pretrained", "checkpoint_path", "pretrained_cfg"):
        if options.get(option) not in (None, False):
            raise InputError(f"{name}: {option} is not taken here; load a local file with {spelled('weights')}")
    parameters = parameters_of(builder)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = ", ".join(spelled(parameter) for parameter in parameters if offered(parameter))
    for option in options:
        if option not in parameters:
            raise InputError(f"{name} takes no option {spelled(option)!r}: it takes {known or 'none'}")


def takes_option(name: str, option: str) -> bool:
    """True if the builder behind a name takes an option."""
    parameters = parameters_of(find_builder(name))
    return option in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def parameters_of(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A builder's parameters by name; empty for one without a signature, as one written in C may be."""
    try:
        return inspect.signature(builder).parameters
    except ValueError:
        return {}


def suggestion(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


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
