"""The fastest form of each ghost layer, by measurement."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.inference.compare import compare
from ghostify.inference.deploy import FORMS, Form, check_example, chosen_form, deploy, ghost_layers
from ghostify.inference.engines import Precision, check_engine
from ghostify.measure.count import count
from ghostify.measure.latency import Comparison
from ghostify.modes import evaluating
from ghostify.progress import Progress
from ghostify.wrappers import unwrapped


@dataclass(frozen=True)
class Trial:
    """A form that was tried.

    Args:
        layers: Module names of the ghost layers that had it, all of the same shape.
        form: The form.
        ratio: Latency of the whole network with it over that without, and the 95 % interval.
        taken: True if it was faster, the whole interval below 1.
    """

    layers: tuple[str, ...]
    form: Form
    ratio: float
    ratio_low: float
    ratio_high: float
    taken: bool


@torch.no_grad()
def choose_forms(
    model: nn.Module,
    example: Tensor,
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    precision: Precision = "fp32",
    blocks: int = 20,
    block_ms: float = 60.0,
    progress: Progress | None = None,
) -> tuple[dict[str, Form], tuple[Trial, ...]]:
    """Try other forms for layers of the same shape, and keep those that make the whole network faster here.

    Begins with the forms that ``deploy`` chooses for the engine; goes through the groups of layers once, in the order
    in which they run. Each trial deploys and times the network twice: minutes for a network of fifty layers.

    Args:
        model: With ghost layers; left untouched.
        example: One batch ``[batch, channels, height, width]``.
        engine: Engine, as for ``compare``.
        threads: CPU threads.
        precision: "fp32", "bf16" or "int8", as for ``compare``: quantisers on two tensors cost more than on one.
        blocks: Blocks of each comparison.
        block_ms: Intended length of one, milliseconds.
        progress: Called at each trial.
    Returns:
        The forms by module name, for ``deploy`` and ``export``; and all trials.
    Raises:
        InputError: If the engine is unknown, there are no ghost layers, or the network cannot be deployed.
    """
    check_engine(engine)
    check_example(example)
    model = unwrapped(model)
    layers = ghost_layers(model)
    if not layers:
        raise InputError(f"{type(model).__name__} has no ghost layers whose form could be chosen")
    with evaluating(model):
        groups = same_shape(model, layers, example)
    chosen = {name: chosen_form(name, layer, {}, fewer=engine == "eager") for name, layer in layers.items()}
    trials: list[Trial] = []
    for index, names in enumerate(groups):
        if progress:
            progress("choose forms", names[0], index, len(groups))
        for form in possible(layers[names[0]]):
            if form == chosen[names[0]]:
                continue
            changed = chosen | dict.fromkeys(names, form)
            found = compare(
                deploy(model, example, engine=engine, forms=chosen),
                deploy(model, example, engine=engine, forms=changed),
                example,
                engine=engine,
                threads=threads,
                precision=precision,
                blocks=blocks,
                block_ms=block_ms,
            )
            trials.append(trial(names, form, found))
            if trials[-1].taken:
                chosen = changed
    if progress:
        progress("choose forms", "done", len(groups), len(groups))
    return chosen, tuple(trials)


def trial(names: Iterable[str], form: Form, found: Comparison) -> Trial:
    return Trial(tuple(names), form, found.ratio, found.ratio_low, found.ratio_high, found.ratio_high < 1)


def possible(layer: nn.Module) -> tuple[Form, ...]:
    """The forms that a layer can have."""
    return FORMS if chosen_form("", layer, {}) == "dense" else ("split", "joined")


def same_shape(model: nn.Module, layers: Mapping[str, nn.Module], example: Tensor) -> list[tuple[str, ...]]:
    """Names of layers that make as many maps of as many, of one size; in the order in which they run."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for row in count(model, tuple(example.shape[1:])).layers:
        name = row.name.rpartition(".primary")[0]
        if name in layers:
            weights = tuple(tuple(p.shape) for p in layers[name].parameters())
            key = (weights, row.output_shape)
            if name not in groups.setdefault(key, []):
                groups[key].append(name)
    return [tuple(names) for names in groups.values()]
