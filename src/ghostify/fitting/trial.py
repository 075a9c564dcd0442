"""The output error of a network in which one layer is changed for a trial."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, spelled
from ghostify.fitting.absorb import MOST_SAMPLES, Taken, absorbed, as_layer_has, channel_samples
from ghostify.fitting.least_squares import fit_filters, maps_in_order
from ghostify.fitting.moments import MomentSums, maps_at, mean_over_kernel, patches
from ghostify.fitting.pruning import consumer_gram
from ghostify.fitting.samples import LARGEST_BLOCK_KERNEL, LayerSamples, SampleBatch, SumSamples, sample_convolution
from ghostify.hooks import hooked
from ghostify.modes import evaluating
from ghostify.structure.blocks import calls_of, find_blocks, times_called, watching_outputs
from ghostify.structure.norms import norm_gains
from ghostify.structure.residual import ResidualSum, sums_of
from ghostify.structure.surgery import conv_at, tensors_in

# Pixels that a fit gets, per unknown of one filter and at least: fewer than a conversion's, as it is thrown away.
SAMPLES_PER_UNKNOWN, LEAST_SAMPLES = 8, 10_000
# Images on which an error is measured, a batch's end apart, and at most this share of all: fewer than those of a fit,
# which ends at the changed layer, where an error needs the rest of the network. They are held out of all fits: a layer
# errs less on what it was fitted to, most of all where maps have few pixels. Most of MobileNetV2's errors on 64 are
# within a tenth of those on 256.
JUDGED, SHARE_JUDGED = 64, 1 / 4

Filters = tuple[Tensor, Tensor | None]  # [outputs, inputs · kernel area], or as the layer has them, and biases


class Trial:
    """Measures the error of a network's output where one of its layers changes.

    Args:
        model: Network in eval mode; changed for the time of a trial only.
        layers: Names of the convolutions and blocks that may change.
        producers: Convolution whose inputs may be pruned → convolution that makes these.
        batches: Inputs ``[batch, channels, height, width]``; the first of them are judged, and layers are fitted to the
            others; one alone is for both.
        weights: Weight of each output's error; None: all count alike.
        absorbers: Convolution that may lose channels → layers that take them and are never changed themselves.
    Raises:
        InputError: If the network returns no tensor of numbers, or not as many as there are weights.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        producers: Mapping[str, str],
        batches: Sequence[Tensor],
        weights: Sequence[float] | None = None,
        *,
        absorbers: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.absorbers = absorbers
        self.model, self.producers = model, producers
        before = accumulate(map(len, batches[:-1]), initial=0)
        judged = judged_of(sum(map(len, batches)))
        self.judged = [batch for batch, number in zip(batches, before, strict=True) if number < judged]
        self.first_fitted = len(self.judged) % len(batches)
        self.fitted = batches[self.first_fitted :]
        self.gains = norm_gains(model, batches[0][:2])
        self.blocks = find_blocks(model, layers, batches[0][:2])
        self.block_of = {name: block for block in self.blocks for name in block.convs}
        self.consumers: dict[str, list[str]] = {}
        for consumer, producer in producers.items():
            self.consumers.setdefault(producer, []).append(consumer)
        # Each block's outputs, so that those in front of a change need not run again.
        self.block_outputs: dict[str, list[Tensor]] = {block.name: [] for block in self.blocks}
        # At once: what comes behind may change it in place.
        with watching_outputs(
            model, list(self.block_outputs), lambda name, end: self.block_outputs[name].append(end.clone())
        ):
            self.targets_of_outputs = self.outputs()
            for batch in batches[len(self.judged) :]:
                self.answers(batch)
        number = len(self.targets_of_outputs)
        if weights is not None and len(weights) != number:
            raise InputError(
                f"{spelled('output_weights')}: {len(weights)} weights: expected one for each of {number} outputs"
            )
        self.weights = torch.tensor([1.0] * number if weights is None else list(weights), device="cpu")
        self.variances = [target.var().clamp_min(1e-12) for target in self.targets_of_outputs]
        self.known: dict[str, LayerSamples] = {}
        self.statistics: dict[str, Taken] = {}
        self.targets: dict[str, list[Tensor]] = {}
        self.orders: dict[str, Tensor] = {}

    def answers(self, batch: Tensor) -> list[Tensor]:
        """The numbers that the network returns for a batch."""
        with evaluating(self.model), torch.no_grad():
            return numbers_in(self.model(batch.clone()))

    def outputs(self) -> list[Tensor]:
        """The numbers that the network returns for judged images: a tensor for each that it returns for a batch."""
        found = [self.answers(batch) for batch in self.judged]
        if not found[0] or any(len(numbers) != len(found[0]) for numbers in found):
            raise InputError("the network returns no tensors of numbers for each batch, by which changes are compared")
        return [torch.cat(part).float() for part in zip(*found, strict=True)]

    def error(self, first: str) -> float:
        """Mean squared error of the output over its variance; ``first`` is the first layer that changed.

        Of several outputs it is the weighted mean: how large their numbers are does not count.
        """
        with self.running_from(first):
            parts = zip(self.outputs(), self.targets_of_outputs, self.variances, strict=True)
            errors = [(output - target).square().mean() / variance for output, target, variance in parts]
            return float((torch.stack(errors).cpu() * self.weights).sum() / self.weights.sum())

    def fitting_from(self, name: str) -> AbstractContextManager[None]:
        """``running_from`` for the batches that layers are fitted to."""
        return self.running_from(name, self.first_fitted)

    @contextmanager
    def running_from(self, name: str, start: int = 0) -> Iterator[None]:
        """Let the blocks in front of a layer return their known outputs, once for each batch, without computing.

        Args:
            start: The first of the batches.
        """
        idle = [block for block in self.blocks if name in self.block_of and block.is_before(self.block_of[name])]
        modules = [self.model.get_submodule(block.name) for block in idle]
        own = [vars(module).get("forward") for module in modules]  # a user may have given a module another
        for module, block in zip(modules, idle, strict=True):
            outputs = iter(self.block_outputs[block.name][start * block.times :])
            module.forward = lambda *args, outputs=outputs: next(outputs).clone()
        try:
            yield
        finally:
            for module, forward in zip(modules, own, strict=True):
                del module.forward  # the class's own is there again
                if forward is not None:
                    module.forward = forward

    @torch.no_grad()
    def error_with_layer(self, name: str, layer: nn.Module) -> float:
        """The output's error with another layer instead of a convolution or a block."""
        module = self.model.get_submodule(name)
        with hooked([module], after=lambda module, args, output: layer(*args)):
            return self.error(name)

    @torch.no_grad()
    def error_with_filters(self, name: str, filters: Filters) -> float:
        """The output's error with other filters in a convolution, to which the layers behind it are fitted."""
        changed = {name: filters}
        with filters_changed(self.model, changed | self.refitted_consumers(name, changed)):
            return self.error(name)

    @torch.no_grad()
    def error_without_channels(self, name: str, kept: int, unit: int = 1) -> float:
        """The output's error where ``kept`` channels of a convolution are left, whole units of them."""
        channels = conv_at(self.model, name).out_channels
        rows = self.best_channels(name, kept, unit).sort().values
        changes = {each: without_inputs(self.samples(each), rows, channels) for each in self.consumers.get(name, ())}
        for absorber in self.absorbers.get(name, ()):
            layer = self.model.get_submodule(absorber)
            changes[absorber] = (
                as_layer_has(layer, absorbed(layer, rows, channels, self.taken(name, absorber).products)),
                layer._parameters["bias"],
            )
        with filters_changed(self.model, changes):
            return self.error(name)

    def best_channels(self, name: str, kept: int, unit: int) -> Tensor:
        """The ``kept`` channels of a convolution from which the layers behind it can best be computed, the best first.

        They are chosen once for the most that are asked for: fewer are the first of these.
        """
        if name not in self.orders or len(self.orders[name]) < kept:
            channels = conv_at(self.model, name).out_channels
            found = {consumer: self.samples(consumer) for consumer in self.consumers.get(name, ())}
            taken = {absorber: self.taken(name, absorber) for absorber in self.absorbers.get(name, ())}
            covariances = [mean_over_kernel(samples.moments.xx, channels) for samples in found.values()]
            covariance = torch.stack(covariances or [each.covariance for each in taken.values()]).sum(0)
            takers = [self.model.get_submodule(taker) for taker in found or taken]
            effect = torch.stack([consumer_gram(taker, channels) for taker in takers]).sum(0)
            self.orders[name] = maps_in_order(covariance, effect.to(covariance), kept, unit)
        return self.orders[name][:kept]

    def taken(self, name: str, absorber: str) -> Taken:
        """Statistics of a convolution's channels where a layer takes them."""
        if absorber not in self.statistics:
            layer, channels = self.model.get_submodule(absorber), conv_at(self.model, name).out_channels
            times = times_called(self.model, self.fitted[0][:1]).get(absorber, 1)
            with self.fitting_from(name):
                most = MOST_SAMPLES / (times * len(self.fitted))
                calls = calls_of(self.model, layer, self.fitted, times, before=True)
                self.statistics[absorber] = Taken.of([channel_samples(layer, x, channels, most) for x, _ in calls])
        return self.statistics[absorber]

    def refitted_consumers(self, name: str, changes: Mapping[str, Filters]) -> dict[str, Filters]:
        """Filters of the layers behind a convolution, fitted to its changed channels as in a conversion."""
        refitted = {}
        for consumer in self.consumers.get(name, ()):
            before = self.samples(consumer)
            sums, targets = MomentSums(), iter(self.targets[consumer])
            with filters_changed(self.model, changes):
                for batch in self.sample(consumer, name):
                    sums.add(patches(before.conv, batch.inputs, batch.pixels), next(targets))
            refitted[consumer] = before.behind(sums.moments(), before.prior)
        return {consumer: samples.with_bias(samples.filters) for consumer, samples in refitted.items()}

    def samples(self, name: str) -> LayerSamples:
        """Samples of a convolution, kept while its neighbours are tried."""
        if name not in self.known:
            for other in [other for other in self.known if not self.near(other, name)]:
                del self.known[other], self.targets[other]
            conv, sums, targets = conv_at(self.model, name), MomentSums(), list[Tensor]()
            for batch in self.sample(name):
                targets.append(batch.targets)
                sums.add(patches(conv, batch.inputs, batch.pixels), batch.targets)
            self.targets[name] = targets
            batches = partial(self.sample, name)
            self.known[name] = sample_convolution(conv, batches, self.gains.get(name), sums.moments())
        return self.known[name]

    def near(self, one: str, other: str) -> bool:
        """True if one takes the other's channels, or both take a third's."""
        first, second = self.producers.get(one), self.producers.get(other)
        return first == other or second == one or (first is not None and first == second)

    def sample(self, name: str, changed: str | None = None) -> Iterator[SampleBatch]:
        """Samples of a convolution, always at the same pixels.

        Args:
            changed: The first convolution that is changed; None: none is.
        """
        conv = conv_at(self.model, name)
        with self.fitting_from(name if changed is None else changed):
            times, drawn = self.block_of[name].times, self.pixels(name, conv.weight[0].numel())
            for x, output in calls_of(self.model, conv, self.fitted, times):
                pixels = drawn(output)
                yield SampleBatch(x, maps_at(output, pixels), pixels)

    def samples_of_sum(self, name: str, total: ResidualSum) -> SumSamples:
        """Samples of a residual block."""
        return SumSamples(total, partial(self.sample_sum, name, total))

    def sample_sum(self, name: str, total: ResidualSum) -> Iterator[SampleBatch]:
        """Samples of a residual block, batch by batch."""
        module = self.model.get_submodule(name)
        with self.fitting_from(name):
            inputs = [x for x, _ in calls_of(self.model, module, self.fitted, before=True)]
        drawn = self.pixels(name, inputs[0].shape[1] * LARGEST_BLOCK_KERNEL**2)
        for x, y in zip(inputs, sums_of(self.model, name, total, inputs), strict=True):
            pixels = drawn(y)
            yield SampleBatch(x, maps_at(y, pixels), pixels)

    def pixels(self, name: str, unknowns: int) -> Callable[[Tensor], Tensor]:
        """Draws random pixels of each output of a layer, enough to fit filters of ``unknowns`` numbers each."""
        maps = self.block_of[name].times * sum(map(len, self.fitted))
        per_map = -(-max(LEAST_SAMPLES, SAMPLES_PER_UNKNOWN * unknowns) // maps)
        generator = torch.Generator().manual_seed(0)

        def drawn(output: Tensor) -> Tensor:
            places = torch.randperm(output[0, 0].numel(), generator=generator, device="cpu")
            return places[:per_map].to(output.device)

        return drawn


def judged_of(images: int) -> int:
    """How many of so many images are judged."""
    return min(JUDGED, max(1, int(SHARE_JUDGED * images)))


def numbers_in(outputs: Any) -> list[Tensor]:
    """The tensors of numbers in what a network returns, flattened: in any nesting, as of segmentation networks."""
    return [leaf.flatten() for leaf in tensors_in(outputs) if leaf.is_floating_point() and leaf.numel()]


def without_inputs(samples: LayerSamples, rows: Tensor, channels: int) -> Filters:
    """Filters of a convolution, fitted to some of its input channels, and 0 for the others."""
    found, area = samples.moments, samples.prior.shape[1] // channels
    columns = (rows[:, None] * area + torch.arange(area, device=rows.device)).flatten()
    filters = torch.zeros_like(samples.prior, dtype=found.xx.dtype)
    filters[:, columns] = fit_filters(found.of_inputs(columns), samples.prior[:, columns])
    return samples.with_bias(filters)


@contextmanager
def filters_changed(model: nn.Module, changes: Mapping[str, Filters]) -> Iterator[None]:
    """Put other filters and biases into layers meanwhile, by name."""
    before = {}
    for name, (filters, bias) in changes.items():
        layer = model.get_submodule(name)
        before[layer], weight = dict(layer._parameters), layer.get_parameter("weight")
        layer.register_parameter("weight", nn.Parameter(filters.to(weight).reshape(weight.shape), requires_grad=False))
        own = None if bias is None else nn.Parameter(bias.to(weight), requires_grad=False)
        layer.register_parameter("bias", own)
    try:
        yield
    finally:
        for layer, parameters in before.items():
            layer._parameters.update(parameters)
