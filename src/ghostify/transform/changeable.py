"""The convolutions of a network that may change, and why the others are left."""

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ghostify.changes.ratio import GhostRatio
from ghostify.errors import InputError, spelled
from ghostify.layers import GHOST_LAYERS, GhostConv2d
from ghostify.structure.blocks import Calls, record_calls
from ghostify.structure.channels import GATED, PrunableChannels, find_prunable
from ghostify.structure.plain_convolution import (
    NotPlainError,
    computes_its_weight,
    has_weight_hooks_only,
    is_plain,
    plain_convolution,
)
from ghostify.structure.surgery import (
    PLAIN_ATTRIBUTES,
    has_hooks,
    module_names,
    replace_modules_,
    replaceable,
    shared_with_copies,
    used_uncalled,
)

# A layer with fewer channels is a head's output or a gate, without near-copies.
NARROWEST = 8
REASONS_SAID = 4  # of the whole
ALREADY = "already a part of a ghost"
NOT_CHEAPER = "a ghost would not be cheaper"
NOT_PLAINLY = "not run, or not with one tensor"
NOT_BY_NAME = "the network reaches it in another way than by its name, or reads more of it than a ghost has"
SHARED = "a copy of the network still runs the network's own, which it keeps in a closure, a weak reference or the like"
GHOSTS_OWN = set(dir(GhostConv2d(1, 2, 1))) - set(dir(nn.Conv2d(1, 2, 1)))


def convolutions_of(model: nn.Module) -> dict[str, nn.Conv2d]:
    """All convolutions by their first names, in the network's order."""
    return {own[0]: module for module, own in module_names(model).items() if isinstance(module, nn.Conv2d)}


def changeable_convolutions(model: nn.Module, skip: Sequence[str], example: Tensor) -> dict[str, nn.Conv2d]:
    """The convolutions that a plan may change, by their first names, in the network's order."""
    reasons = reasons_to_leave(model, GhostRatio(), skip, example)
    return {name: conv for name, conv in convolutions_of(model).items() if may_be_fitted(reasons[name])}


def plain_copy(model: nn.Module, skip: Sequence[str], example: Tensor) -> nn.Module:
    """A copy in which all convolutions that a plan may change are plain."""
    if all(map(is_plain, convolutions_of(model).values())):
        return copy.deepcopy(model)
    return with_plain_convolutions(model, changeable_convolutions(model, skip, example))[0]


def with_plain_convolutions(model: nn.Module, names: Collection[str]) -> tuple[nn.Module, set[str]]:
    """Copy a network with layers that compute a convolution in a way of their own made plain: the same function.

    Args:
        names: Names of convolutions that may change.
    Returns:
        The copy, and the names of the layers that computed their weights, and now have what that gave.
    """
    convs = convolutions_of(model)
    plain = {name: plain_convolution(convs[name]) for name in names if not is_plain(convs[name])}
    copied = copy.deepcopy(model)
    old = convolutions_of(copied)
    computed = {name for name, layer in plain.items() if computes_its_weight(old[name], layer)}
    return replace_modules_(copied, {old[name]: layer for name, layer in plain.items()}), computed


def may_be_fitted(reason: str) -> bool:
    """True if a convolution can change, perhaps not to a cheaper ghost of the ratio that was asked for."""
    return not reason or reason.startswith(NOT_CHEAPER)


def reasons_to_leave(
    model: nn.Module, ghosts: GhostRatio, skip: Sequence[str], example: Tensor | None = None
) -> dict[str, str]:
    """Reasons to leave convolutions, "" for those that may change; by first name, in the network's order.

    Args:
        ghosts: Ghosts that they would become.
        skip: Full module names, or fnmatch patterns on them.
        example: One batch for the network; None leaves out the reasons that only a run can show.
    Raises:
        InputError: If an entry of ``skip`` names nothing, or a copy of the network would run parts of the network
            itself that are no convolutions.
    """
    names = module_names(model)
    refuse_idle_patterns(skip, [name for all_names in names.values() for name in all_names])
    convs = convolutions_of(model)
    calls = {} if example is None else record_calls(model, example)
    reasons = {
        name: reason_to_leave(conv, names[conv], model, ghosts, skip, sizes_seen(calls.get(conv)))
        for name, conv in convs.items()
    }
    if example is not None:
        changing = [name for name, reason in reasons.items() if may_be_fitted(reason)]
        called = [name for name in changing if convs[name] in calls]
        hidden = set(called) - replaceable(model, called, example)
        hidden |= used_uncalled(model, [name for name in changing if convs[name] not in calls], example)
        reasons |= {name: "a gate: it sees a single pixel" for name in called if is_gate(model, name, calls)}
        reasons |= dict.fromkeys(hidden, NOT_BY_NAME)
        shared = shared_with_copies(model, example)
        reasons |= dict.fromkeys(shared & reasons.keys(), SHARED)
        if others := sorted(shared - reasons.keys()):
            raise InputError(f"{type(model).__name__} cannot be copied whole: of {others[0]!r}, {SHARED}")
    return reasons


def sizes_seen(calls: Calls | None) -> set[tuple[int, ...]]:
    """Heights and widths of the maps that a layer got."""
    return set() if calls is None else {tuple(call.input.shape[2:]) for call in calls.plain if call.input.ndim == 4}


def reason_to_leave(
    conv: nn.Conv2d,
    names: Sequence[str],
    root: nn.Module,
    ghosts: GhostRatio,
    skip: Sequence[str],
    sizes: Collection[tuple[int, ...]],
) -> str:
    """The reason to leave a convolution that its own settings show, or what it computes of maps, or ""."""
    parents = [parent for name in names for parent in ancestors(root, name)]
    if any(isinstance(parent, GHOST_LAYERS) for parent in parents):
        return ALREADY
    if any(matches(name, skip) for name in names):
        return "skipped by name"
    if has_hooks(conv) and not has_weight_hooks_only(conv):
        return "it has a hook, or a forward of its own, which would not go along"
    if taken := sorted((vars(conv).keys() - PLAIN_ATTRIBUTES) & GHOSTS_OWN):
        return f"it has an attribute {taken[0]!r}, which a ghost has, too"
    if conv.groups == conv.in_channels and conv.groups > 1:
        return "depthwise"
    if conv.groups > 1:
        return "grouped"
    if conv.out_channels < max(NARROWEST, ghosts.ratio):
        return f"very narrow: {conv.out_channels} channel{'s' if conv.out_channels > 1 else ''}"
    # Without a run, names must do: torchvision's SqueezeExcitation, timm's SqueezeExcite and our own.
    if any("SqueezeExcit" in type(parent).__name__ for parent in parents):
        return "a squeeze-and-excite gate"
    if not is_plain(conv):
        try:
            conv = plain_convolution(conv, sizes)
        except NotPlainError as error:
            return f"{type(conv).__name__} is no plain convolution: {error}"
    before, after = ghosts.macs_per_pixel(conv)
    return f"{NOT_CHEAPER}: {after} for {before} MACs per pixel" if after >= before else ""


def commonest_reasons(reasons: Iterable[str]) -> str:
    """How often each reason to leave a layer is given, without its numbers, the commonest first.

    Example:
        >>> commonest_reasons(["grouped", "very narrow: 3 channels", "very narrow: 4 channels"])
        'very narrow (2), grouped (1)'
    """
    found = Counter(reason.partition(":")[0] for reason in reasons)
    return ", ".join(f"{reason} ({number})" for reason, number in found.most_common(REASONS_SAID))


def is_gate(model: nn.Module, name: str, calls: Mapping[nn.Module, Calls]) -> bool:
    """True if a convolution takes single pixels inside a module whose output is as large as its input, as in a gate."""
    own = calls[model.get_submodule(name)]
    if not own.plain or any(call.input.ndim != 4 or call.input[0, 0].numel() > 1 for call in own.plain):
        return False
    around = [calls[parent] for parent in ancestors(model, name) if parent in calls]
    return any(
        call.input.ndim == 4 and call.input[0, 0].numel() > 1 and call.output.shape[2:] == call.input.shape[2:]
        for parent in around
        for call in parent.plain
    )


def prunable_among(
    model: nn.Module, convs: Mapping[str, nn.Conv2d], example: Tensor, skip: Sequence[str] = ()
) -> dict[str, PrunableChannels | str]:
    """Where the channels of convolutions go, by name, or why they cannot be dropped.

    They can where others of these convolutions take them, whose filters can be fitted anew, or layers that are never
    changed themselves and may absorb them.

    Args:
        skip: Module names or patterns of layers to leave.
    """
    places = find_prunable(model, example, convs)
    outside = {
        taker
        for place in places.values()
        if isinstance(place, PrunableChannels)
        for taker in (*place.consumers, *place.followers)
        if taker not in convs
    }
    stay = may_not_absorb(model, outside, example, skip) if outside else set()
    for name, place in places.items():
        if isinstance(place, str):
            continue
        if others := [taker for taker in place.takers if taker in stay]:
            places[name] = f"{others[0]} takes its channels, which may not change"
        elif gates := [follower for follower in place.followers if follower in convs]:
            places[name] = GATED.format(gates[0])
    return places


def may_not_absorb(model: nn.Module, names: Collection[str], example: Tensor, skip: Sequence[str]) -> set[str]:
    """The layers among these whose weights must stay as they are."""
    reasons = reasons_to_leave(model, GhostRatio(), skip, example)
    found = set()
    for name in names:
        layer = model.get_submodule(name)
        skipped = any(matches(name, [pattern]) for pattern in skip)
        own = reasons.get(name, "")
        stays = not own.startswith(
            ("a gate", "a squeeze", "very narrow", "depthwise", "grouped")
        ) and not may_be_fitted(own)
        if skipped or stays or has_hooks(layer):
            found.add(name)
    return found


def ancestors(root: nn.Module, name: str) -> list[nn.Module]:
    """The modules around the one of that name, the root first."""
    parts = name.split(".")
    return [root.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """True if a pattern matches a name, or the name of a module around it.

    Example:
        >>> matches("layer1.0.conv1", ["layer1"]), matches("layer1.0.conv1", ["*.conv2"])
        (True, False)
    """
    parts = name.split(".")
    around = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return any(fnmatchcase(part, pattern) for part in around for pattern in patterns)


def refuse_idle_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse patterns that match none of the names."""
    if isinstance(patterns, str):
        raise InputError(f"{spelled('skip')} is the string {patterns!r}: expected a sequence of names or patterns")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"{spelled('skip')}: {pattern!r} matches no module of the network")
