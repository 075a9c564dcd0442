"""Maps of a layer that are nearly filtered copies of others."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.inference.deploy import ghost_layers
from ghostify.layers import GhostConv2d
from ghostify.measure.redundancy import (
    MapFilter,
    constant_maps,
    explained_alone,
    explained_by_combinations,
    explained_by_filters,
    fit_filter,
    fit_filters_between,
    most_similar,
    usable_sizes,
)
from ghostify.measure.stages import Stage, layers_with_maps, maps_of, stages
from ghostify.progress import Progress

SIZES = (1, 3, 5, 7)
LEAST_MAPS = 32
PAIRS = 8  # as many as there are colours for them
CURVE_POINTS = 64
Ways = Mapping[str, tuple[list[int], list[float]]]


@dataclass(frozen=True)
class SimilarPair:
    """Two maps of which one is nearly a filtered copy of the other.

    Args:
        source: The map that is filtered.
        target: The map that this should give.
        filters: The best filter of each size d.
    """

    source: int
    target: int
    filters: Mapping[int, MapFilter]


@dataclass(frozen=True)
class Partners:
    """For each map the other map from which a d×d filter makes it best.

    Args:
        source: Index of the other map, ``[maps]``; -1 for a constant map, which needs none.
        error: Share of the map's variance that the filter leaves, ``[maps]``.
        weight: The filters, ``[maps, d, d]``.
        bias: The constants that are added, ``[maps]``.
    """

    source: Tensor
    error: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Beside:
    """A ghost's maps of the same layer beside the original's.

    Args:
        maps: The ghost's maps, ``[its maps, height, width]``.
        original: Index of the original's map for which each stands, ``[its maps]``.
        error: Mean squared difference over the original map's variance, ``[its maps]``; 0 is the same.
        paired_by: "place", or "likeness" where the ghost has other maps or keeps them in another order.
    """

    maps: Tensor
    original: Tensor
    error: Tensor
    paired_by: Literal["place", "likeness"]


@dataclass(frozen=True)
class SeenLayer:
    """One layer's maps of one image, and how well they predict each other.

    Args:
        name: Name of the module.
        maps: ``[maps, height, width]``.
        constant: The maps that are constant, bool ``[maps]``.
        intrinsic: The maps that a convolution makes, the others being ghosts, bool: among the maps of ``beside`` where
            there is one, else among its own; None where the layer makes no ghosts.
        partners: The best partners by filter size.
        pairs: The most similar pairs by filter size, best first.
        explained: For each way of making the other maps ("dropped", "d×d filters" for each d, "combinations") numbers m
            of intrinsic maps, and the shares of all maps' variance that these and the maps made of them explain.
        beside: The same layer of a ghost; None without a ghost.
    """

    name: str
    maps: Tensor
    constant: Tensor
    intrinsic: Tensor | None
    partners: Mapping[int, Partners]
    pairs: Mapping[int, list[SimilarPair]]
    explained: Ways
    beside: Beside | None

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.partners)

    def explained_by_half(self) -> dict[str, float]:
        """Share of the variance that half of the maps explain, or the next larger number on a curve, by way, 0..1."""
        half = (len(self.maps) + 1) // 2
        return {
            way: next(share for m, share in zip(*curve, strict=True) if m >= half)
            for way, curve in self.explained.items()
        }

    def numbers(self) -> dict[str, Any]:
        """Everything but the maps themselves, as JSON values."""
        return {
            "layer": self.name,
            "maps": len(self.maps),
            "height": self.maps.shape[1],
            "width": self.maps.shape[2],
            "variance": rounded(self.maps.flatten(1).var(1, correction=0)),
            "constant": self.constant.nonzero().flatten().tolist(),
            "intrinsic": None if self.intrinsic is None else self.intrinsic.nonzero().flatten().tolist(),
            "partners": {
                d: {
                    "source": found.source.tolist(),
                    "error": rounded(found.error),
                    "weight": rounded(found.weight.flatten(1)),
                    "bias": rounded(found.bias),
                }
                for d, found in self.partners.items()
            },
            "pairs": {d: [pair_numbers(pair) for pair in pairs] for d, pairs in self.pairs.items()},
            "explained": {way: {"maps": m, "share": rounded(s)} for way, (m, s) in self.explained.items()},
            "against": None
            if self.beside is None
            else {
                "maps": len(self.beside.maps),
                "original": self.beside.original.tolist(),
                "error": rounded(self.beside.error),
                "paired_by": self.beside.paired_by,
            },
        }


def pair_numbers(pair: SimilarPair) -> dict[str, Any]:
    fits = {
        d: {"weight": rounded(f.weight.flatten()), "bias": rounded(f.bias), "error": rounded(f.error), "mse": f.mse}
        for d, f in pair.filters.items()
    }
    return {"source": pair.source, "target": pair.target, "filters": fits}


def rounded(value: Any) -> Any:
    """Numbers, also in lists and tensors, to four significant digits."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}")


def look(
    network: nn.Module,
    x: Tensor,
    layers: Sequence[str] = (),
    *,
    against: nn.Module | None = None,
    progress: Progress | None = None,
) -> list[SeenLayer]:
    """Find the maps of a network's layers that are nearly filtered copies of others.

    Args:
        network: The network.
        x: One image as the network takes it, ``[1, channels, height, width]``.
        layers: Names of modules, or fnmatch patterns on those of ``layers_to_pick``. Without any, the ends of the
            stages that have at least two convolutions (of all stages, if none has), from the first with at least 32
            maps on; with ``against`` the first ghost layer of each of these stages.
        against: A ghost of the network, with modules of the same names.
        progress: Called for each layer.
    Raises:
        InputError: If there is no such layer, it makes no maps, or all its maps are constant.
    """
    names = picked(network, x, layers) if layers else default_layers(network, x, against)
    own = maps_of(network, names, x)
    # What nobody asked for by its name need not be refused.
    shown = [name for name in names if name in layers or int((~constant_maps(own[name])).sum()) >= 2]
    names = shown or names[:1]
    others = maps_of(against, names, x) if against is not None else {}
    ghost = network if against is None else against
    makers = ghost_layers(ghost)
    found = []
    for done, name in enumerate(names):
        if progress:
            progress("look", name, done, len(names))
        maker = ghost.get_submodule(name)
        intrinsic = makers[name].intrinsic_maps if name in makers else None
        beside = put_beside(own[name], others[name], maker) if name in others else None
        found.append(see(name, own[name], intrinsic, beside))
    if progress:
        progress("look", "done", len(names), len(names))
    return found


def layers_to_pick(network: nn.Module, x: Tensor) -> list[str]:
    """Names of the modules that make maps large enough to be looked at, in the order in which they run."""
    made = layers_with_maps(network, x)
    return [name for name, shape in made.items() if shape[1] >= 2 and usable_sizes(*shape[2:])]


def picked(network: nn.Module, x: Tensor, layers: Sequence[str]) -> list[str]:
    """The names, and for each pattern those that it matches, each once."""
    modules = dict(network.named_modules())
    found: list[str] = []
    for wanted in layers:
        is_pattern = wanted not in modules and any(sign in wanted for sign in "*?[")
        matches = fnmatch.filter(layers_to_pick(network, x), wanted) if is_pattern else []
        found += matches or [wanted]  # one that matches nothing is refused as a name
    return list(dict.fromkeys(found))


def default_layers(network: nn.Module, x: Tensor, against: nn.Module | None) -> list[str]:
    found = [stage for stage in stages(network, x) if stage.convolutions and usable_sizes(stage.height, stage.width)]
    found = [stage for stage in found if stage.convolutions >= 2] or found  # a stem is hardly a stage
    if not found:
        raise InputError("this network has no stages of convolutions: name a layer")
    large = next((place for place, stage in enumerate(found) if stage.maps >= LEAST_MAPS), len(found) - 1)
    found = found[large:]
    ghosts = [first_ghost(against, stage) for stage in found] if against is not None else []
    return [name for name in ghosts if name is not None] or [stage.end for stage in found]


def first_ghost(network: nn.Module, stage: Stage) -> str | None:
    """The first layer of the stage that makes ghosts, of at least 32 maps where there is one."""
    ghosts = [
        (name, module.out_channels)
        for name, module in ghost_layers(network).items()
        if any(name == member or name.startswith(f"{member}.") for member in stage.members)
    ]
    return next((name for name, maps in ghosts if maps >= LEAST_MAPS), ghosts[0][0] if ghosts else None)


def see(name: str, maps: Tensor, intrinsic: Tensor | None, beside: Beside | None) -> SeenLayer:
    constant = constant_maps(maps)
    sizes = usable_sizes(maps.shape[1], maps.shape[2], SIZES)
    if not maps.isfinite().all():
        raise InputError(f"{name} makes maps that are not finite of this image")
    if len(maps) - int(constant.sum()) < 2 or not sizes:
        raise InputError(
            f"{name} makes {len(maps) - int(constant.sum())} maps that are not constant, of {maps.shape[1]}×"
            f"{maps.shape[2]} pixels: expected at least two of at least twelve pixels"
        )
    fits = fit_filters_between(maps, sizes)
    partners, pairs = {}, {}
    explained = {"dropped": explained_alone(maps)}
    everyone = torch.arange(len(maps))
    for d, fit in fits.items():
        partners[d] = Partners(
            source=fit.partners.masked_fill(constant, -1),
            error=fit.errors[everyone, fit.partners],
            weight=fit.weights,
            bias=fit.biases,
        )
        pairs[d] = [
            SimilarPair(p.source, p.target, {e: fit_filter(maps[p.source], maps[p.target], e) for e in sizes})
            for p in most_similar(fit.errors, constant, PAIRS)
        ]
        explained[f"{d}×{d} filters"] = explained_by_filters(maps, fit.errors)
    explained["combinations"] = explained_by_combinations(maps)
    points = torch.linspace(1, len(maps), min(len(maps), CURVE_POINTS)).round().int()
    ways = {way: (points.tolist(), shares[points - 1].tolist()) for way, shares in explained.items()}
    return SeenLayer(name, maps, constant, intrinsic, partners, pairs, ways, beside)


def put_beside(original: Tensor, maps: Tensor, maker: nn.Module) -> Beside:
    """Pair a ghost's maps with the original's maps for which they stand."""
    if original.shape[1:] != maps.shape[1:]:
        raise InputError(
            f"the maps are {tuple(original.shape[1:])} and {tuple(maps.shape[1:])}: expected a network and its ghost"
        )
    in_order = not isinstance(maker, GhostConv2d) or maker.cheap is None or maker.order is not None
    by_place = in_order and len(maps) == len(original)
    if by_place:
        place = torch.arange(len(maps))
    else:  # an order that is folded into the layers behind, or dropped maps: nothing says what stands for what
        likeness = correlations(maps, original)
        rows, columns = linear_sum_assignment(likeness.numpy(), maximize=True)
        place = likeness.argmax(1)
        place[torch.as_tensor(rows)] = torch.as_tensor(columns)
    target = original[place]
    variance = target.flatten(1).double().var(1, correction=0)
    difference = (maps - target).flatten(1).double().square().mean(1)
    error = torch.where(variance > 0, difference / variance.clamp_min(1e-30), (difference > 0).double())
    return Beside(maps, place, error, "place" if by_place else "likeness")


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """Correlations of the maps of ``a`` with those of ``b``, -1 to 1, 0 for constant maps: ``[a's maps, b's maps]``."""
    standard = []
    for maps in (a, b):
        values = maps.double().flatten(1)
        values = values - values.mean(1, keepdim=True)
        standard.append(values / values.norm(dim=1, keepdim=True).clamp_min(1e-30))
    return standard[0] @ standard[1].T
