"""A network on disk: its tensors, and how to build it again."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostify.atomic import replacing
from ghostify.errors import InputError
from ghostify.layers import GhostBlock, GhostConv2d
from ghostify.layers.ghost_conv import intrinsic_channels
from ghostify.models.detectors import DETECTORS
from ghostify.models.registry import MODELS, Origin, create_model, known_origin, remember_origin
from ghostify.models.weights import load_weights_
from ghostify.transform.surgery import module_names, replace_modules_

KEY, FORMAT = "ghostify", 1

CONV_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


def conv_arguments(conv: nn.Conv2d | GhostConv2d) -> dict[str, Any]:
    bias = conv.primary.bias if isinstance(conv, GhostConv2d) else conv.bias
    return {name: getattr(conv, name) for name in CONV_ARGUMENTS} | {"bias": bias is not None}


def ghost_arguments(ghost: GhostConv2d) -> dict[str, Any]:
    own = {"ratio": ghost.ratio, "cheap_kernel_size": ghost.cheap_kernel_size, "cheap": ghost.cheap_kind}
    intrinsic = ghost.primary.out_channels
    if intrinsic != intrinsic_channels(ghost.out_channels, ghost.ratio, ghost.groups):
        own["intrinsic"] = intrinsic
    if ghost.order is not None:
        own["ordered"] = True
    return conv_arguments(ghost) | own


def block_arguments(block: GhostBlock) -> dict[str, Any]:
    return {"channels": block.channels, "kernel_size": block.kernel_size, "relu": block.relu}


def linear_arguments(linear: nn.Linear) -> dict[str, Any]:
    return {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
    }


def norm_arguments(norm: nn.BatchNorm2d) -> dict[str, Any]:
    names = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    return {name: getattr(norm, name) for name in names}


# The layers in which a network may differ from its origin, and the arguments that make each again.
LAYERS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    GhostBlock: block_arguments,
    GhostConv2d: ghost_arguments,
    nn.Conv2d: conv_arguments,
    nn.Linear: linear_arguments,
    nn.BatchNorm2d: norm_arguments,
}
KINDS = {kind.__name__: kind for kind in LAYERS}


@dataclass(frozen=True)
class Blueprint:
    """How to build a network: an origin, and the layers that stand there instead of the origin's.

    Args:
        origin: Builder and options.
        replaced: Module name → kind and arguments of the layer that stands there.
    """

    origin: Origin
    replaced: dict[str, dict[str, Any]]

    def build(self) -> nn.Module:
        """The network with random weights."""
        model = self.origin.build()
        modules = dict(model.named_modules(remove_duplicate=False))
        try:
            replacements = {modules[name]: make_layer(row) for name, row in self.replaced.items()}
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a replaced layer of {self.origin.name} cannot be built again: {error!r}") from error
        model = replace_modules_(model, replacements)
        remember_origin(model, self.origin)
        return model


def make_layer(row: Mapping[str, Any]) -> nn.Module:
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "kind"}
    return KINDS[row["kind"]](**arguments)


def describe_layer(module: nn.Module) -> dict[str, Any] | None:
    """Kind and arguments of a layer in JSON's types, or None where it is of no kind that can be described."""
    describe = LAYERS.get(type(module))
    if describe is None:
        return None
    row: dict[str, Any] = json.loads(json.dumps({"kind": type(module).__name__, **describe(module)}))
    return row


def blueprint_of(model: nn.Module) -> Blueprint:
    """How to build this network again.

    The origin is known for what ``create_model`` built. For others it is looked for: among
    torchvision's builders of the same class, then the class itself without arguments.

    Raises:
        InputError: If none of these leads to this network.
    """
    origin = known_origin(model)
    why = ""
    found: list[Blueprint] = []
    for candidate in [origin] if origin else likely_origins(model):
        try:
            with init_empty_weights():
                found.append(Blueprint(candidate, replaced_layers(model, candidate.build())))
        except Exception as error:  # noqa: BLE001  # a builder may raise anything; then it is not this one
            why = f" ({candidate.name}: {error})"
    if not found:
        raise InputError(
            f"how this {type(model).__name__} was built is not known{why}: build the network with create_model, "
            "whose 'package.module:factory' takes any builder that can be imported"
        )
    return min(found, key=lambda blueprint: len(blueprint.replaced))


def likely_origins(model: nn.Module) -> Iterator[Origin]:
    kind = type(model)
    for name in torchvision.models.list_models(module=torchvision.models):
        if torchvision.models.get_model_builder(name).__annotations__.get("return") is kind:
            yield Origin(f"torchvision:{name}")
    if kind.__module__ != "__main__" and "<" not in kind.__qualname__ and not kind.__module__.startswith("torch"):
        yield Origin(f"{kind.__module__}:{kind.__qualname__}")


def replaced_layers(model: nn.Module, origin: nn.Module) -> dict[str, dict[str, Any]]:
    """The layers of ``model`` that differ from those of the same name in ``origin``.

    Raises:
        InputError: If they differ in more than layers of a kind that can be described.
    """
    expected = dict(origin.named_modules(remove_duplicate=False))
    replaced: dict[str, dict[str, Any]] = {}
    inside_replaced: set[nn.Module] = set()
    met: set[str] = set()
    for module, names in module_names(model).items():
        if module in inside_replaced:
            continue
        met.update(names)
        strange = [name for name in names if name not in expected]
        if strange:
            raise InputError(f"it has a module {strange[0]!r} that its origin lacks")
        there, row = expected[names[0]], describe_layer(module)
        if row is not None:
            inside_replaced.update(module.modules())
            if row != describe_layer(there):
                replaced[names[0]] = row
                met.update(f"{name}.{inner}" for name in names for inner, _ in there.named_modules() if inner)
        elif type(module) is not type(there) or leaf_settings(module) != leaf_settings(there):
            raise InputError(f"{names[0] or 'the network'} is a {module!r:.60}, not its origin's {there!r:.60}")
    lost = [name for name in expected if name not in met]
    if lost:
        raise InputError(f"it lacks the module {lost[0]!r} of its origin")
    return replaced


def leaf_settings(module: nn.Module) -> str:
    """What a module without children prints of itself; of others nothing, their children speak."""
    return "" if next(module.children(), None) is not None else repr(module)


def save(model: nn.Module, path: str | os.PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
    """Write a network with all that is needed to build it again; safetensors, no pickle.

    The file is there whole or not at all.

    Args:
        model: A network of ``create_model``, ``convert`` or torchvision, or of an importable class that
            takes no arguments; layers in it may have been replaced by ``GhostConv2d``, ``GhostBlock``, ``Conv2d``,
            ``Linear`` or ``BatchNorm2d``.
        path: File to write.
        extra: JSON values to keep beside it, such as the normalisation of its input.
    Raises:
        InputError: If how to build it is not known.
        OSError: If it cannot be written.
    """
    blueprint = blueprint_of(model)
    note = {"format": FORMAT, **asdict(blueprint), "extra": dict(extra or {})}
    firsts = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict(keep_vars=True).items()
        if firsts[id(tensor)] == name  # a shared tensor once
    }
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={KEY: json.dumps(note)})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def load(path: str | os.PathLike[str], *, factory: str | None = None) -> nn.Module:
    """Build a network from a file that ``save`` wrote, in eval mode on the CPU.

    Nothing in the file is run. A network that came from a builder of the user's is built only by the
    builder that the caller names.

    Args:
        factory: ``package.module:factory`` that the network came from, where it is the user's own.
    Raises:
        InputError: If the file is not there, cut short, of another kind, or needs ``factory``.
    """
    note, tensors = read_network_file(Path(path))
    try:
        origin = Origin(str(note["origin"]["name"]), dict(note["origin"]["options"]))
        blueprint = Blueprint(origin, dict(note["replaced"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not say how its network is built") from error
    trusted = origin.name in (*MODELS, *DETECTORS) or origin.name.startswith(("torchvision:", "timm:"))
    if not trusted and factory != origin.name:
        raise InputError(
            f"{path} was built by {origin.name}, code that is not run on a file's word: name it as the factory"
        )
    model = blueprint.build()
    own = model.state_dict(keep_vars=True)
    firsts = {id(tensor): name for name, tensor in reversed(own.items())}
    state = {name: tensors.get(firsts[id(tensor)]) for name, tensor in own.items()}
    odd = [n for n, t in state.items() if t is None or t.shape != own[n].shape] or sorted(set(tensors) - set(state))
    if odd:
        raise InputError(f"{path}: the tensor {odd[0]!r} does not go with {origin.name} as the file describes it")
    floating = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    model.to(floating).load_state_dict(state)
    return model.eval()


def read_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``save`` was given to keep beside the network."""
    return dict(read_network_file(Path(path))[0].get("extra", {}))


def read_network_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The note on how to build the network, and the tensors."""
    if not path.is_file():
        raise InputError(f"{path} is not there: expected a file written by save")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is no network written by save, or is cut short: {error}") from error
    try:
        note = json.loads(metadata[KEY])
    except (KeyError, json.JSONDecodeError):
        raise InputError(f"{path} holds tensors only: name the network and give the file with --weights") from None
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise InputError(f"{path} is of another format than {FORMAT}: write it again with this version")
    return note, tensors


def open_network(
    reference: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    factory: str | None = None,
    new_head: bool = False,
    **options: Any,
) -> nn.Module:
    """A network by name or from a file, with weights from a file where given.

    Args:
        reference: What ``create_model`` takes, or a file written by ``save``.
        weights: A state dict's file.
        num_classes: Outputs; not for files.
        factory: See ``load``.
        new_head: See ``load_weights_``.
        options: Of the builder; not for files.
    """
    if Path(reference).is_file() or reference.endswith(".safetensors"):
        given = [name for name, value in (*options.items(), ("num_classes", num_classes)) if value is not None]
        if given and Path(reference).is_file():  # of one that is absent, load says so
            raise InputError(f"{reference} is a file, which says all about its network: leave out {', '.join(given)}")
        model = load(reference, factory=factory)
    else:
        model = create_model(reference, num_classes=num_classes, **options)
    if new_head and weights is None:
        raise InputError("a new head is for weights from a file: expected some")
    return load_weights_(model, weights, new_head=new_head) if weights is not None else model
