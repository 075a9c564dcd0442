"""Turn the convolutions of any network into ghosts."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.fitting.calibration import checked_batches
from ghostify.layers import GhostBlock, GhostConv2d, GhostModule
from ghostify.layers.ghost_conv import Cheap, check_ghost_arguments, intrinsic_channels
from ghostify.measure.count import Count, count
from ghostify.models.registry import known_origin
from ghostify.plain_part import is_detector
from ghostify.progress import Progress
from ghostify.structure.blocks import run_once
from ghostify.structure.channels import InnerMaps, inner_places
from ghostify.structure.surgery import module_names, replace_modules_
from ghostify.transform.detector import ghost_detector
from ghostify.transform.plan import LayerPlan, inside_ghost_block, mixed_plan, uniform_plan
from ghostify.transform.reconstruct import EFFORTS, Effort, KeptLayer, keep_knowledge

# A layer with fewer maps is a head's output or a gate: it has no near-copies to save.
NARROWEST = 8
ALREADY = "already a part of a ghost"
NOT_CHEAPER = "a ghost would not be cheaper"
NOT_ONCE = "not run exactly once for an input"


@dataclass(frozen=True)
class ConvertedLayer:
    """What became of one convolution, or of a residual block that is a ghost as a whole.

    Args:
        name: Full module name.
        replaced: Whether it is a ghost now, makes fewer maps, or takes fewer.
        reason: Why not; "" where replaced.
        macs_before: Multiply-adds for one input; None where the input's shape is not known; of a block 0, as its
            convolutions have their own.
        macs_after: The same of what stands there now.
        kept: Output maps that the convolution makes.
        ghosted: Output maps made of those.
        dropped: Output maps that are gone.
        merged: How many combinations of its inputs it takes; None: these themselves.
        explained: Share of the ghosted maps' variance that the kept ones give, where calibrated.
        block: Part of the network whose output was compared, where calibrated.
        block_error: Mean squared error at its output over the variance there, where calibrated.
    """

    name: str
    replaced: bool
    reason: str
    macs_before: int | None
    macs_after: int | None
    kept: int
    ghosted: int = 0
    dropped: int = 0
    merged: int | None = None
    explained: float | None = None
    block: str | None = None
    block_error: float | None = None


@dataclass(frozen=True)
class Conversion:
    """A ghosted copy of a network and what became of each convolution."""

    model: nn.Module
    layers: tuple[ConvertedLayer, ...]

    @property
    def replaced(self) -> int:
        """How many convolutions are ghosts now."""
        return sum(layer.replaced for layer in self.layers)


@torch.inference_mode(False)  # wherever it is called: weights are to learn
def convert(
    model: nn.Module,
    *,
    ratio: float = 2,
    cheap_kernel_size: int = 3,
    cheap: Cheap = "depthwise",
    skip: Sequence[str] = (),
    input_shape: Sequence[int] | None = None,
    calibration: Iterable[Tensor] | Iterable[Sequence[Tensor]] | None = None,
    effort: Effort = "refined",
    drop_inner: bool = False,
    round_to: int = 1,
    plan: Mapping[str, LayerPlan] | None = None,
    parts: Sequence[str] = ("backbone",),
    seed: int = 0,
    progress: Progress | None = None,
) -> Conversion:
    """Copy a network with its convolutions replaced by ghosts (Han et al. 2020, arXiv:1911.11907, section 3.1).

    A ``GhostConv2d`` takes the place of the convolution alone: BatchNorm and activation behind it stay.
    Depthwise, grouped and very narrow convolutions, gates, and those that a ghost would not make cheaper,
    are left. Converting a second time changes nothing.

    Without ``calibration`` the ghosts keep the convolution's own filters for their intrinsic maps and have
    new cheap ones, so that the copy must be trained. With it, the copy of a trained network keeps what the
    network knows as well as it can, see ``keep_knowledge``.

    Args:
        model: Any network; left untouched.
        ratio: s, one map in s stays a convolution's; whole, but for ``drop_inner``.
        cheap_kernel_size: d of depthwise cheap filters, odd.
        cheap: "depthwise" (the paper's) or "pointwise" (1×1 combinations of all intrinsic maps).
        skip: Full module names, or fnmatch patterns on them, of what to leave.
        input_shape: Of one input without batch, for the multiply-adds per layer; None takes what the
            network was designed for, and leaves them out where the network cannot take that.
        calibration: Batches of inputs ``[batch, channels, height, width]``, normalised as for the network;
            some hundreds of images, no labels.
        effort: Of the calibration: "fast" (closed form) or "refined" (blocks learn their outputs, too).
        drop_inner: Drop maps that only following layers take, and ghost fewer of the others, so that
            the convolutions cost 1 / ratio; for calibration with "pointwise" ghosts.
        round_to: With ``drop_inner``, the kept ones of such maps are a multiple of this number: 16 fills a
            processor's vectors, and ONNX Runtime's fast layout wants it.
        plan: Kept, ghosted, dropped and merged maps of convolutions by name, instead of ``ratio``, ``skip`` and
            ``drop_inner``; of others all are kept. Of a residual block all can be ghosts: one cheap convolution of its
            input takes its place, whatever is said of the convolutions inside. For calibration.
        parts: Of a detector (torchvision's RetinaNet or Faster R-CNN), which of "backbone", "fpn" and "head"; its
            calibration images have values 0..1 and any size, as the detector takes them.
        seed: Of the calibration.
        progress: Told of each block that is calibrated.
    Raises:
        InputError: If no convolution can be replaced, an entry of ``skip`` names nothing, the network
            cannot take ``input_shape``, the calibration images can tell nothing, or the network cannot
            follow the plan.
    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32))
        >>> [(layer.name, layer.reason) for layer in convert(net).layers]
        [('0', ''), ('2', 'depthwise')]
    """
    if is_detector(model):
        refuse_idle_patterns(skip, [name for name, _ in model.named_modules(remove_duplicate=False)])
        options: dict[str, Any] = {
            "ratio": ratio,
            "cheap_kernel_size": cheap_kernel_size,
            "cheap": cheap,
            "effort": effort,
        }
        options |= {"drop_inner": drop_inner, "round_to": round_to, "plan": plan, "seed": seed, "progress": progress}
        ghosted, rows = ghost_detector(convert, model, parts, skip, calibration, input_shape, options)
        return Conversion(ghosted, tuple(rows))
    if drop_inner and not ratio >= 1:
        raise InputError(f"ratio is {ratio!r}: expected at least 1")
    check_ghost_arguments(2 if drop_inner else ratio, cheap_kernel_size, cheap)
    if effort not in EFFORTS:
        raise InputError(f"effort is {effort!r}: expected one of {', '.join(EFFORTS)}")
    if drop_inner and (calibration is None or cheap != "pointwise"):
        raise InputError('drop_inner needs calibration images and cheap="pointwise"')
    if round_to < 1 or (round_to > 1 and not drop_inner):
        raise InputError(f"round_to is {round_to}: expected at least 1, and 1 without drop_inner")
    if plan is not None and (calibration is None or drop_inner or skip):
        raise InputError("a plan needs calibration images, and says itself what is dropped and what is left")
    batches = None if calibration is None else checked_batches(calibration, model)
    if batches is not None:
        input_shape = input_shape or batches[0].shape[1:]
    before = count_if_possible(model, input_shape)
    ghosted = copy.deepcopy(model)
    names = module_names(ghosted)
    refuse_idle_patterns(skip, [name for all_names in names.values() for name in all_names])

    convs = {own[0]: module for module, own in names.items() if isinstance(module, nn.Conv2d)}
    reasons = {
        name: reason_to_leave(conv, names[conv], ghosted, ratio, cheap_kernel_size, cheap, skip)
        for name, conv in convs.items()
    }
    if batches is not None:  # it is fitted to what it gets and gives, once for an image
        others = set(convs) - set(run_once(model, batches[0][:1]))
        reasons |= {name: NOT_ONCE for name in others if not reasons[name] or is_dear(reasons[name])}
    chosen = {name: conv for name, conv in convs.items() if not reasons[name]}
    if not chosen and ALREADY not in reasons.values():
        found = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise InputError(f"{type(model).__name__} has no convolution to replace ({found or 'it has none at all'})")

    plans = uniform_plan(chosen, ratio)
    kept: dict[str, KeptLayer] = {}
    if batches is None:
        ghosts: dict[nn.Module, nn.Module] = {
            conv: GhostConv2d.like(conv, ratio=int(ratio), cheap_kernel_size=cheap_kernel_size, cheap=cheap)
            for conv in chosen.values()
        }
        ghosted = replace_modules_(ghosted, ghosts)
    else:
        # What a ghost would not make cheaper can still be fitted to the inputs that it will get.
        free = {name: conv for name, conv in convs.items() if not reasons[name] or is_dear(reasons[name])}
        if plan is not None:
            check_plan(plan, model, convs, reasons)
            plans = {name: layer for name, layer in plan.items() if name in convs or layer.of_block}
            reasons |= dict.fromkeys(free, "the plan keeps all its maps")
        elif drop_inner:
            inner = droppable(ghosted, free, batches[0][:1])
            plans = mixed_plan(free, macs_of(before, convs), inner, ratio, round_to)
        plans = {name: LayerPlan(conv.out_channels) for name, conv in free.items()} | plans
        ghosted, kept = keep_knowledge(
            model,
            plans,
            batches,
            cheap=cheap,
            cheap_kernel_size=cheap_kernel_size,
            effort=effort,
            seed=seed,
            progress=progress,
        )
    after = count_if_possible(ghosted, input_shape)
    gone = {
        name: LayerPlan(0, dropped=conv.out_channels) for name, conv in convs.items() if inside_ghost_block(name, plans)
    }
    rows = [
        converted_layer(name, conv.out_channels, (plans | gone).get(name), reasons[name], kept.get(name), before, after)
        for name, conv in convs.items()
    ]
    rows += [
        ConvertedLayer(
            name,
            replaced=True,
            reason="",
            macs_before=None if before is None else 0,
            macs_after=macs_under(after, name),
            kept=0,
            ghosted=block.ghosted,
            explained=kept[name].explained,
            block=kept[name].block,
            block_error=kept[name].block_error,
        )
        for name, block in plans.items()
        if block.of_block
    ]
    return Conversion(ghosted, tuple(rows))


def free_convolutions(model: nn.Module, skip: Sequence[str] = ()) -> dict[str, nn.Conv2d]:
    """The convolutions that a plan may change, by their first names, in the network's order."""
    names = module_names(model)
    refuse_idle_patterns(skip, [name for all_names in names.values() for name in all_names])
    convs = {own[0]: module for module, own in names.items() if isinstance(module, nn.Conv2d)}
    reasons = {name: reason_to_leave(conv, names[conv], model, 2, 3, "pointwise", skip) for name, conv in convs.items()}
    return {name: conv for name, conv in convs.items() if not reasons[name] or is_dear(reasons[name])}


def is_dear(reason: str) -> bool:
    """Whether a convolution is left only because a ghost of the same ratio would not be cheaper."""
    return reason.startswith(NOT_CHEAPER)


def check_plan(
    plan: Mapping[str, LayerPlan], model: nn.Module, convs: Mapping[str, nn.Conv2d], reasons: Mapping[str, str]
) -> None:
    """Refuse a plan for what is not there, cannot change, or has another number of maps."""
    modules = dict(model.named_modules())
    for name, layer in plan.items():
        if inside_ghost_block(name, plan):
            continue
        if name in modules and name not in convs:
            if layer.dropped or (layer.kept and layer.ghosted):
                raise InputError(f"plan: {name} is no convolution: expected all maps of a block kept, or all ghosted")
            continue  # whether a block can become a ghost, its fit will find out
        if name not in convs:
            raise InputError(f"plan: the network has no convolution {name!r}, or has it under another name first")
        if reasons[name] and not is_dear(reasons[name]):
            raise InputError(f"plan: {name} cannot change: {reasons[name]}")
        if layer.maps != convs[name].out_channels:
            raise InputError(f"plan: {name} makes {convs[name].out_channels} maps, not {layer.maps}")
        if layer.kept == 0:
            raise InputError(f"plan: {name} keeps no map: expected that only inside a block of ghosts")


def droppable(model: nn.Module, convs: Mapping[str, nn.Conv2d], example: Tensor) -> dict[str, InnerMaps]:
    """Those of the convolutions whose maps go to others of them only."""
    try:
        places = inner_places(model, example, convs)
    except InputError:  # what cannot be traced can have ghosts all the same
        return {}
    return {
        name: place
        for name, place in places.items()
        if isinstance(place, InnerMaps) and places.keys() >= set(place.consumers)  # whose filters will be fitted
    }


def converted_layer(
    name: str,
    maps: int,
    plan: LayerPlan | None,
    reason: str,
    kept: KeptLayer | None,
    before: Count | None,
    after: Count | None,
) -> ConvertedLayer:
    plan = plan or LayerPlan(maps)
    replaced = bool(plan.ghosted or plan.dropped or plan.merged)
    if not replaced and not reason:
        reason = f"{NOT_CHEAPER}: combining {maps} maps costs as much as making them"
    return ConvertedLayer(
        name,
        replaced,
        "" if replaced else reason,
        macs_under(before, name),
        macs_under(after, name),
        plan.kept,
        plan.ghosted,
        plan.dropped,
        plan.merged,
        kept.explained if kept else None,
        kept.block if kept else None,
        kept.block_error if kept else None,
    )


def macs_of(counted: Count | None, names: Iterable[str]) -> dict[str, int]:
    return {name: macs_under(counted, name) or 0 for name in names}


def reason_to_leave(
    conv: nn.Conv2d,
    names: Sequence[str],
    root: nn.Module,
    ratio: float,
    cheap_kernel_size: int,
    cheap: Cheap,
    skip: Sequence[str],
) -> str:
    """Why a convolution is left as it is, or "" where it is replaced."""
    parents = [parent for name in names for parent in ancestors(root, name)]
    if any(isinstance(parent, GhostBlock | GhostConv2d | GhostModule) for parent in parents):
        return ALREADY
    if any(matches(name, skip) for name in names):
        return "skipped by name"
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__}, not a plain Conv2d"
    if "weight" not in dict(conv.named_parameters(recurse=False)):
        return "its weight is computed from other tensors"
    if conv.groups == conv.in_channels and conv.groups > 1:
        return "depthwise"
    if conv.groups > 1:
        return "grouped"
    if conv.out_channels < max(NARROWEST, ratio):
        return f"very narrow: {conv.out_channels} maps"
    # torchvision's SqueezeExcitation, timm's SqueezeExcite and our own see a single pixel.
    if any("SqueezeExcit" in type(parent).__name__ for parent in parents):
        return "a squeeze-and-excite gate"
    before, after = macs_per_pixel(conv, ratio, cheap_kernel_size, cheap)
    return f"{NOT_CHEAPER}: {after} for {before} MACs per pixel" if after >= before else ""


def macs_per_pixel(conv: nn.Conv2d, ratio: float, cheap_kernel_size: int, cheap: Cheap) -> tuple[int, int]:
    """Multiply-adds per output pixel of a convolution and of its ghost."""
    per_map = conv.weight[0].numel()
    intrinsic = intrinsic_channels(conv.out_channels, ratio)
    if cheap == "depthwise":
        ghosts = intrinsic * (int(ratio) - 1) * cheap_kernel_size**2
    else:
        ghosts = (conv.out_channels - intrinsic) * intrinsic
    return conv.out_channels * per_map, intrinsic * per_map + ghosts


def ancestors(root: nn.Module, name: str) -> list[nn.Module]:
    """The modules around the one of that name, the root first."""
    parts = name.split(".")
    return [root.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name, or the name of a module around it, is matched by a pattern.

    Example:
        >>> matches("layer1.0.conv1", ["layer1"]), matches("layer1.0.conv1", ["*.conv2"])
        (True, False)
    """
    parts = name.split(".")
    around = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return any(fnmatchcase(part, pattern) for part in around for pattern in patterns)


def refuse_idle_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    if isinstance(patterns, str):
        raise InputError(f"skip is the string {patterns!r}: expected a sequence of names or patterns")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"skip: {pattern!r} matches no module of the network")


def count_if_possible(model: nn.Module, input_shape: Sequence[int] | None) -> Count | None:
    if input_shape is not None:
        return count(model, input_shape)
    origin = known_origin(model)
    channels = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
    try:
        return count(model, origin.input_shape if origin else (channels, 224, 224))
    except InputError:
        return None


def macs_under(counted: Count | None, name: str) -> int | None:
    return None if counted is None else counted.of(name)[0]
