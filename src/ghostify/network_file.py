"""A network on disk: its tensors, and a note on how to build it again."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostify.atomic import replacing
from ghostify.errors import InputError, first_sentence, spelled
from ghostify.models.registry import Origin, create_model, is_trusted, origin_of, trust
from ghostify.models.tensor_file import written_by_torch
from ghostify.models.weights import load_weights_
from ghostify.transform.blueprint import Blueprint, blueprint_of, held_tensors
from ghostify.wrappers import unwrapped

KEY, FORMAT = "ghostify", 1


def save(model: nn.Module, path: str | os.PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
    """Write a network with all that is needed to build it again; safetensors, no pickle.

    The file is there whole or not at all.

    Args:
        model: A network of ``create_model``, ``convert`` or torchvision, or of an importable class that
            takes no arguments; layers in it may have been replaced by those that changes put in, such as
            ``GhostConv2d``, or by ``Conv2d``, ``Linear`` or ``BatchNorm2d``.
        path: File to write.
        extra: JSON values to keep beside it, such as the normalisation of its input.
    Raises:
        InputError: If how to build it is not known.
        OSError: If it cannot be written.
    """
    model = unwrapped(model)
    blueprint, state = blueprint_of(model), model.state_dict(keep_vars=True)
    held = {
        name: place.tensor
        for name, place in held_tensors(model).items()
        if name in blueprint.held and not place.tensor.is_meta  # a module may have left one without values
    }
    unlisted = held | unlisted_buffers(model)
    state |= unlisted
    tied = tied_names(state)
    origin = {"name": blueprint.origin.name, "options": to_json(blueprint.origin.options)}
    note = {
        "format": FORMAT,
        "origin": origin,
        "replaced": blueprint.replaced,
        "tied": tied,
        "unlisted": list(unlisted),
        "extra": dict(extra or {}),
    }
    tensors = {name: tensor for name, tensor in state.items() if name not in tied}
    with replacing(path) as temporary:
        try:
            save_file(storable(tensors), temporary, metadata={KEY: json.dumps(note)})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
    trust(blueprint.origin.name)  # its code is this network's, which the caller has run


def unlisted_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a state dict leaves out: a constructor may have computed them from weights that are gone."""
    listed = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if name not in listed}


def to_json(value: Any) -> Any:
    """A builder's options as JSON has them, with tuples told from lists.

    Example:
        >>> to_json({"depths": (2, 3), "act": "relu"})
        {'depths': {'tuple': [2, 3]}, 'act': 'relu'}
    """
    if isinstance(value, dict):
        return {key: to_json(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        ones = [to_json(one) for one in value]
        return {"tuple": ones} if isinstance(value, tuple) else ones
    return value


def from_json(value: Any) -> Any:
    """Options as they were before ``to_json``."""
    if isinstance(value, dict) and value.keys() == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(map(from_json, value["tuple"]))
    if isinstance(value, dict):
        return {key: from_json(one) for key, one in value.items()}
    return [from_json(one) for one in value] if isinstance(value, list) else value


def tied_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The further names of tensors that stand under several, each with the first one.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> tied_names({"a": layer.weight, "b": layer.bias, "c": layer.weight})
        {'c': 'a'}
    """
    firsts: dict[int, str] = {}
    return {name: first for name, tensor in state.items() if (first := firsts.setdefault(id(tensor), name)) != name}


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, and none a view of another."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        found[name] = plain.clone() if plain.untyped_storage().data_ptr() in storages else plain
        storages.add(found[name].untyped_storage().data_ptr())
    return found


def load(path: str | os.PathLike[str], *, factory: str | None = None) -> nn.Module:
    """Build a network from a file that ``save`` wrote, in eval mode on the CPU.

    Nothing in the file is run. A network that came from a builder of the user's is built only by a
    builder that the caller names, or has named before. It remembers how its images are prepared, where ``save`` kept
    that beside it: ``evaluate``, ``train`` and ``look`` do so.

    Args:
        factory: ``package.module:factory`` that the network came from, where it is the user's own.
    Raises:
        InputError: If the file is not there, cut short, of another kind, or needs ``factory``: where it is of the
            user's own builder, and that was not run in this process by ``create_model`` or for ``save``.
    """
    return open_network_file(path).network(factory=factory)


class UnnamedFactoryError(InputError):
    """A file of the user's own network, whose builder the caller has not named.

    Args:
        path: The file.
        factory: The builder that it names.
    """

    def __init__(self, path: Path, factory: str) -> None:
        self.what, self.factory = f"{path} was built by {factory}, code that is not run on a file's word", factory
        super().__init__(f"{self.what}: name it as the factory, {factory!r}")


@dataclass(frozen=True)
class NetworkFile:
    """A file that ``save`` wrote, opened: its note is read, its tensors are once the network is built.

    Args:
        path: The file.
        note: How the network is built, and what was kept beside it.
        stored: safetensors' handle, which reads a tensor when that is asked for.
    """

    path: Path
    note: Mapping[str, Any]
    stored: Any

    @property
    def extra(self) -> dict[str, Any]:
        """The JSON values that ``save`` kept beside the network."""
        return dict(self.note["extra"])

    def network(self, *, factory: str | None = None) -> nn.Module:
        """Build the network, see ``load``."""
        blueprint = self.blueprint()
        origin = blueprint.origin
        if not is_trusted(origin.name) and (factory is None or origin_of(factory).name != origin.name):
            raise UnnamedFactoryError(self.path, origin.name)
        model, tensors = blueprint.build(), self.tensors()
        held = held_tensors(model)
        known = {name: place.tensor for name, place in held.items()} | unlisted_buffers(model)
        unlisted = {
            name: tensor
            for name, tensor in known.items()
            if name in self.note.get("unlisted", ()) and fits(tensors.get(name), tensor)
        }
        own = model.state_dict(keep_vars=True) | unlisted
        tied = self.note.get("tied", tied_names(own))  # before it was noted, what is tied was the origin's matter
        firsts = {name: str(tied.get(name, name)) for name in own}
        odd = [name for name, first in firsts.items() if not fits(tensors.get(first), own[name])]
        # A buffer that the state dict leaves out may have another size after a run, which the next one gives it, too.
        odd += sorted(tensors.keys() - set(firsts.values()) - set(self.note.get("unlisted", ())))
        if odd:
            raise InputError(
                f"{self.path}: the tensor {odd[0]!r} does not go with {origin.name} as the file describes it"
            )
        precisions = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
        if len(precisions) == 1:  # of buffers that are in no file, too
            model.to(precisions.pop())
        # Each is the file's, in its own precision, and one where names share it; copied, as the file may change.
        made = {name: tensor.clone() for name, tensor in tensors.items()}
        for name in made.keys() & own.keys():
            if isinstance(own[name], nn.Parameter):
                made[name] = nn.Parameter(made[name], own[name].requires_grad)
        state = model.state_dict()  # with the versions that some modules ask for
        state.update({name: made[firsts[name]] for name in own if name not in unlisted})
        model.load_state_dict(state, assign=True)
        for name in unlisted:
            if name in held:
                held[name].put(made[firsts[name]])
            else:
                place, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(place), leaf, made[firsts[name]])
        remember_extra(model, self.extra)
        return model.eval()

    def blueprint(self) -> Blueprint:
        try:
            origin = Origin(str(self.note["origin"]["name"]), dict(from_json(self.note["origin"]["options"])))
            return Blueprint(origin, dict(self.note["replaced"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{self.path} does not say how its network is built") from error

    def tensors(self) -> dict[str, Tensor]:
        try:
            names = self.stored.keys()
            return {name: self.stored.get_tensor(name) for name in names}
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{self.path} cannot be read: {first_sentence(error)}") from error


def fits(stored: Tensor | None, own: Tensor) -> bool:
    """True where a file's tensor can take the place of a network's."""
    if stored is None or stored.shape != own.shape:
        return False
    return stored.is_floating_point() == own.is_floating_point()


def remember_extra(model: nn.Module, extra: Mapping[str, Any]) -> None:
    model.ghostify_extra = dict(extra)  # type: ignore[assignment]  # a note on the module, no part of its state


def known_extra(model: nn.Module) -> dict[str, Any]:
    """The values that were kept beside a network in its file, or beside the one that it was made of; else nothing."""
    extra = getattr(model, "ghostify_extra", None)
    return extra if isinstance(extra, dict) else {}


def channels_of(model: str, extra: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """How a network's file says that images are normalised: nothing, or ``mean`` and ``std`` of three channels."""
    found = {name: extra[name] for name in ("mean", "std") if extra.get(name) is not None}
    for name, values in found.items():
        three = isinstance(values, list | tuple) and len(values) == 3
        finite = three and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        if not finite or (name == "std" and min(values) <= 0):
            what = "three numbers above 0" if name == "std" else "three numbers"
            raise InputError(
                f"{model} says that {name} is {values!r}: expected {what}; give {spelled('mean')} and {spelled('std')}"
            )
    return {name: tuple(values) for name, values in found.items()}


def read_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON values that ``save`` kept beside the network; no tensor is read for them."""
    return open_network_file(path).extra


def open_network_file(path: str | os.PathLike[str]) -> NetworkFile:
    """Open a file that ``save`` wrote and read its note.

    Raises:
        InputError: If it is not there, cut short or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there: expected a file written by save")
    try:
        stored = safe_open(path, framework="pt")
        metadata = stored.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        if written_by_torch(path):
            raise InputError(
                f"{path} is a file of PyTorch's, which does not say how its network is built: name the network, and "
                f"give the file as {spelled('weights')}"
            ) from error
        raise InputError(f"{path} is no network written by save, or is cut short: {first_sentence(error)}") from error
    if KEY not in metadata:
        raise InputError(f"{path} holds tensors only: name the network and give the file as {spelled('weights')}")
    try:
        note = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:  # such as a number of too many digits
        raise InputError(f"{path}: its note on how to build the network cannot be read: {error}") from error
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise InputError(f"{path} is of another format than {FORMAT}: write it again with this version")
    note = {"extra": {}, **note}
    dicts = all(isinstance(note.get(part, {}), dict) for part in ("origin", "replaced", "tied", "extra"))
    unlisted = note.get("unlisted", [])
    if not dicts or not isinstance(unlisted, list) or not all(isinstance(name, str) for name in unlisted):
        raise InputError(f"{path} does not say how its network is built")
    return NetworkFile(path, note, stored)


def names_file(reference: str) -> bool:
    """True where a reference to a network is a file's name, also where there is no such file."""
    return Path(reference).is_file() or ("?" not in reference and reference.endswith(".safetensors"))


def open_network(
    reference: str | NetworkFile,
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    factory: str | None = None,
    new_head: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a network by name or from a file, with weights from a file where there is one.

    Args:
        reference: A name that ``create_model`` takes, or a file written by ``save``, opened or not.
        weights: A state dict's file.
        num_classes: Outputs; not for files.
        factory: See ``load``.
        new_head: See ``load_weights_``.
        options: The builder's; not for files.
    """
    if isinstance(reference, str) and names_file(reference):
        reference = open_network_file(reference)
    if isinstance(reference, NetworkFile):
        idle = [name for name, value in (*options.items(), ("num_classes", num_classes)) if value is not None]
        if idle:
            raise InputError(
                f"{reference.path} is a file, which says all about its network: "
                f"leave out {', '.join(map(spelled, idle))}"
            )
        model = reference.network(factory=factory)
    else:
        model = create_model(reference, num_classes=num_classes, **options)
    if new_head and weights is None:
        raise InputError(f"{spelled('new_head')} is for weights from a file: name it as {spelled('weights')}")
    return load_weights_(model, weights, new_head=new_head) if weights is not None else model
