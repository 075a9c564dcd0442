"""What each option of a convolution would do to the network's output, without labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor, nn

from ghostify.changes.one_convolution import fit_ghost_block
from ghostify.errors import InputError
from ghostify.fitting.least_squares import choose_maps, complement, fit_filters, fit_pointwise, merge_inputs
from ghostify.fitting.moments import Moments, MomentSums, maps_at, mean_over_taps, patches
from ghostify.fitting.pruning import consumer_gram
from ghostify.modes import evaluating
from ghostify.planning.sites import Site
from ghostify.progress import Progress
from ghostify.structure.blocks import calls_of, find_blocks, watching_outputs
from ghostify.structure.residual import sums_of
from ghostify.structure.surgery import conv_at
from ghostify.transform.plan import LayerPlan
from ghostify.transform.reconstruct import fit_layer, norm_gains

# Pixels that a fit gets, per unknown of one filter and at least: fewer than a conversion's, as it is thrown away.
SAMPLES_PER_UNKNOWN, LEAST_SAMPLES = 8, 10_000
# Harms in between are read off a curve.
MEASURED_AT = (0.75, 0.5, 0.25, 0.125)

Change = tuple[Tensor, Tensor]  # filters [outputs, inputs · taps] and biases
# A site, "dropped", "pointwise", "depthwise" or "merged", and how many maps are kept, or inputs merged to.
Key = tuple[str, str, int]


class OutputHarm:
    """How far a network's output moves where one of its convolutions changes.

    Args:
        model: In eval mode; changed for the time of a trial only.
        sites: Of its convolutions.
        batches: Inputs ``[batch, channels, height, width]``.
    Raises:
        InputError: If the network returns something else than one tensor.
    """

    def __init__(self, model: nn.Module, sites: Mapping[str, Site], batches: Sequence[Tensor]) -> None:
        self.model, self.sites, self.batches = model, sites, batches
        self.gains = norm_gains(model, batches[0][:2])
        self.blocks = find_blocks(model, list(sites), batches[0][:2])
        self.block_of = {name: index for index, block in enumerate(self.blocks) for name in block.convs}
        self.consumers: dict[str, list[str]] = {}
        for name, site in sites.items():
            if site.producer is not None:
                self.consumers.setdefault(site.producer, []).append(name)
        # What each block gives, so that those in front of a change need not run again.
        self.given: dict[str, list[Tensor]] = {block.name: [] for block in self.blocks}
        # At once: what comes behind may change it in place.
        with watching_outputs(model, list(self.given), lambda name, end: self.given[name].append(end.clone())):
            self.wanted = self.outputs()
        self.variance = self.wanted.var().clamp_min(1e-12)
        self.moments: dict[str, Moments] = {}
        self.targets: dict[str, list[Tensor]] = {}
        self.fitted: dict[str, Tensor] = {}  # of the convolution looked at, filters of which several options are made

    def outputs(self) -> Tensor:
        """What the network gives for all images."""
        with evaluating(self.model), torch.no_grad():
            found = [self.model(batch.clone()) for batch in self.batches]
        if not isinstance(found[0], Tensor):
            raise InputError(
                f"the network returns {type(found[0]).__name__}: expected one tensor, by which options are compared"
            )
        return torch.cat(found).float()

    def moved(self, first: str) -> float:
        """Mean squared error of the output over its variance, where no convolution before ``first`` was changed."""
        with self.running_from(first):
            return float((self.outputs() - self.wanted).square().mean() / self.variance)

    @contextmanager
    def running_from(self, name: str) -> Iterator[None]:
        """Let the blocks in front of a convolution give what they gave, without computing it, once for each batch."""
        idle = self.blocks[: self.block_of.get(name, 0)]
        modules = [self.model.get_submodule(block.name) for block in idle]
        own = [vars(module).get("forward") for module in modules]  # a user may have given a module another
        for module, block in zip(modules, idle, strict=True):
            kept = iter(self.given[block.name])
            module.forward = lambda *args, kept=kept: next(kept).clone()
        try:
            yield
        finally:
            for module, forward in zip(modules, own, strict=True):
                del module.forward  # the class's own is there again
                if forward is not None:
                    module.forward = forward

    @torch.no_grad()
    def measure(self, name: str, kind: str, kept: int) -> float:
        """The output's error with this change of this convolution, or block, alone."""
        if self.sites[name].total is not None:
            return self.with_ghost_block(name, next(o for o in self.sites[name].options[1:] if o.cheap == kind))
        conv = conv_at(self.model, name)
        if kind == "depthwise":
            plan = LayerPlan(kept, conv.out_channels - kept, cheap="depthwise")
            return self.with_depthwise(name, plan)
        if kind == "dropped":
            changes = self.without_maps(name, kept)
        else:
            changes = {name: self.with_fewer_products(name, kind, kept)}
            changes |= self.refitted_consumers(name, changes)
        with filters_changed(self.model, changes):
            return self.moved(name)

    def with_fewer_products(self, name: str, kind: str, kept: int) -> Change:
        """Filters and biases of the convolution that gives what pointwise ghosts would, or merged inputs."""
        conv, found = conv_at(self.model, name), self.moments_of(name)
        if name not in self.fitted:
            self.fitted = {name: fit_filters(found, conv.weight.flatten(1))}
        fitted = self.fitted[name]
        gain = self.gains.get(name, torch.ones(len(fitted), device=fitted.device))
        if kind == "merged":
            merged = merge_inputs(found, fitted.unflatten(1, (conv.in_channels, -1)), gain, kept)
            filters = merged.of_all(fit_filters(merged.moments, merged.prior))
        else:
            ghosts = fit_pointwise(found, fitted, gain, kept)
            filters = torch.empty_like(fitted)
            others = complement(ghosts.kept, len(filters))
            filters[ghosts.kept], filters[others] = ghosts.filters, ghosts.combinations @ ghosts.filters
        return filters, found.t_mean - filters @ found.x_mean

    def without_maps(self, name: str, kept: int) -> dict[str, Change]:
        """Filters and biases of what takes a convolution's maps, fitted to fewer of them."""
        maps = self.sites[name].maps
        found = {consumer: self.moments_of(consumer) for consumer in self.consumers[name]}
        covariance = sum(mean_over_taps(moments.xx, maps) for moments in found.values())
        effect = sum(consumer_gram(conv_at(self.model, consumer), maps) for consumer in found)
        assert isinstance(covariance, Tensor)
        assert isinstance(effect, Tensor)
        rows = choose_maps(covariance, effect.to(covariance), kept)
        changes = {}
        for consumer, moments in found.items():
            prior = conv_at(self.model, consumer).weight.flatten(1)
            taps = prior.shape[1] // maps
            columns = (rows[:, None] * taps + torch.arange(taps, device=rows.device)).flatten()
            left = Moments(
                moments.x_mean[columns],
                moments.t_mean,
                moments.xx[columns][:, columns],
                moments.tx[:, columns],
                moments.tt,
            )
            filters = torch.zeros_like(prior, dtype=moments.xx.dtype)
            filters[:, columns] = fit_filters(left, prior[:, columns])
            changes[consumer] = filters, moments.t_mean - filters @ moments.x_mean
        return changes

    def refitted_consumers(self, name: str, changes: Mapping[str, Change]) -> dict[str, Change]:
        """What takes inner maps, fitted to how they are now: as a conversion does."""
        refitted = {}
        for consumer in self.consumers.get(name, ()):
            self.moments_of(consumer)
            with filters_changed(self.model, changes):
                found, _ = self.summed(consumer, self.targets[consumer], name)
            filters = fit_filters(found, conv_at(self.model, consumer).weight.flatten(1))
            refitted[consumer] = filters, found.t_mean - filters @ found.x_mean
        return refitted

    def with_depthwise(self, name: str, plan: LayerPlan) -> float:
        conv = conv_at(self.model, name)
        layer, _ = fit_layer(conv, plan, lambda: self.samples(name), None, self.gains.get(name), "depthwise", 3)
        hook = conv.register_forward_hook(lambda module, args, output: layer(*args))
        try:
            return self.moved(name)
        finally:
            hook.remove()

    def with_ghost_block(self, name: str, plan: LayerPlan) -> float:
        total, module = self.sites[name].total, self.model.get_submodule(name)
        assert total is not None

        def samples() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            with self.running_from(name):
                inputs = [x for x, _ in calls_of(self.model, module, self.batches, before=True)]
            pixels = self.pixels(inputs[0], inputs[0].shape[1] * plan.kernel_size**2)
            for x, y in zip(inputs, sums_of(self.model, name, total, inputs), strict=True):
                chosen = next(pixels)
                yield x, maps_at(y, chosen), chosen

        layer, _ = fit_ghost_block(total, plan.kernel_size, samples)
        hook = module.register_forward_hook(lambda module, args, output: layer(*args))
        try:
            return self.moved(name)
        finally:
            hook.remove()

    def moments_of(self, name: str) -> Moments:
        """Of what a convolution gets and gives; kept for those that share a producer or have several options."""
        if name not in self.moments:
            for other in [other for other in self.moments if not self.near(other, name)]:
                del self.moments[other], self.targets[other]
            self.moments[name], self.targets[name] = self.summed(name)
        return self.moments[name]

    def near(self, one: str, other: str) -> bool:
        """Whether one takes the other's maps, or both take a third's."""
        first, second = self.sites[one].producer, self.sites[other].producer
        return first == other or second == one or (first is not None and first == second)

    def summed(
        self, name: str, targets: Sequence[Tensor] = (), changed: str | None = None
    ) -> tuple[Moments, list[Tensor]]:
        """Moments of what a convolution gets now and of what it gives, or should give; and the latter's samples."""
        conv, sums, given = conv_at(self.model, name), MomentSums(), list[Tensor]()
        for index, (x, t, pixels) in enumerate(self.samples(name, changed)):
            given.append(targets[index] if targets else t)
            sums.add(patches(conv, x, pixels), given[-1])
        return sums.moments(), given

    def samples(self, name: str, changed: str | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per batch: what a convolution gets, what it gives at the pixels to look at, and these, always the same.

        ``changed``: the first convolution that is not as it was; None where all are.
        """
        conv = conv_at(self.model, name)
        with self.running_from(name if changed is None else changed):
            drawn = None
            for x, output in calls_of(self.model, conv, self.batches):
                drawn = drawn or self.pixels(output, conv.weight[0].numel())
                pixels = next(drawn)
                yield x, maps_at(output, pixels), pixels

    def pixels(self, output: Tensor, unknowns: int) -> Iterator[Tensor]:
        """Pixels of maps to look at for a fit of filters with so many unknowns, for one batch after the other."""
        per_image = -(-max(LEAST_SAMPLES, SAMPLES_PER_UNKNOWN * unknowns) // sum(map(len, self.batches)))
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randperm(output[0, 0].numel(), generator=generator)[:per_image].to(output.device)


@contextmanager
def filters_changed(model: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """Other filters ``[outputs, inputs · taps]`` and biases meanwhile, in convolutions by name."""
    before = {}
    for name, (filters, bias) in changes.items():
        conv = conv_at(model, name)
        before[conv] = dict(conv._parameters)
        conv.weight = nn.Parameter(filters.to(conv.weight).reshape(conv.weight.shape), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
    try:
        yield
    finally:
        for conv, parameters in before.items():
            conv._parameters.update(parameters)


def harms_of(
    sites: Mapping[str, Site],
    measure: Callable[[str, str, int], float],
    known: dict[Key, float],
    progress: Progress | None = None,
) -> dict[str, tuple[float, ...]]:
    """What each option of each site harms; measured at some numbers of maps, read off a curve in between.

    Args:
        measure: The harm of a change of a site, by kind and maps kept or merged to.
        known: What has been measured before; added to.
    """
    wanted = [(name, kind, kept) for name, site in sites.items() for kind, kept in measured_changes(site)]
    for index, key in enumerate(wanted):
        if progress:
            progress("measure harm", key[0], index, len(wanted))
        if key not in known:
            known[key] = measure(*key)
    if progress:
        progress("measure harm", "done", len(wanted), len(wanted))
    return {name: tuple(harm_between(site, option, known) for option in site.options) for name, site in sites.items()}


def changes_of(option: LayerPlan) -> Iterator[tuple[str, int]]:
    """Of what kinds an option's changes are, and how many maps are kept or merged to: each harms on its own."""
    if option.ghosted or option.dropped:
        yield (option.cheap or "pointwise" if option.ghosted else "dropped"), option.kept
    if option.merged is not None:
        yield "merged", option.merged


def measured_changes(site: Site) -> list[tuple[str, int]]:
    """Those changes of a site whose harm is measured: of each kind the nearest to some shares; of a block all."""
    changes = dict.fromkeys(change for option in site.options for change in changes_of(option))
    if site.total is not None:
        return list(changes)
    chosen = []
    for kind in ("dropped", "pointwise", "depthwise", "merged"):
        counts = sorted(count for found, count in changes if found == kind and count)
        if counts:
            whole = whole_of(site, kind)
            nearest = {min(counts, key=lambda count: abs(count - share * whole)) for share in MEASURED_AT}
            chosen += [(kind, count) for count in sorted(nearest, reverse=True)]
    return chosen


def whole_of(site: Site, kind: str) -> int:
    """Of how many maps, or inputs, a change leaves some."""
    return site.inputs if kind == "merged" else site.maps


def harm_between(site: Site, option: LayerPlan, known: Mapping[Key, float]) -> float:
    """The sum of an option's changes: each read off a monotone curve through what was measured."""
    if site.within and option.kept == 0:
        return 0.0  # of what goes with its block, the harm is the block's
    if site.total is not None:
        return sum(known[site.name, kind, count] for kind, count in changes_of(option))
    harm = 0.0
    for kind, count in changes_of(option):
        points = sorted((n, known[site.name, kind, n]) for found, n in measured_changes(site) if found == kind)
        counts, harms = zip(*points, (whole_of(site, kind), 0.0), strict=True)
        # More maps never harm more, but for what a measurement is off by.
        falling = torch.tensor(harms, dtype=torch.float64).flip(0).cummax(0).values.flip(0)
        harm += float(PchipInterpolator(counts, falling.numpy())(count))
    return harm
