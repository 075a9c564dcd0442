"""A file in int8, beside the same in float32."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, spelled
from ghostify.inference.engines import FileRunner
from ghostify.inference.in_turn import interleaved
from ghostify.inference.parity import (
    Checked,
    Parity,
    device_of,
    file_parity,
    images_and_labels,
    names_classes,
    parity,
)
from ghostify.inference.quantize import Int8, Judges, images_for_ranges, quantise_file, size_mb
from ghostify.measure.latency import Comparison, Conditions
from ghostify.modes import evaluating
from ghostify.structure.surgery import tensors_in

# What int8 may cost without a word: points of top-1, the share of equal first answers, of outputs without classes the
# mean squared difference over their variance.
LOST_POINTS, SAME_ANSWERS, LOST_VARIANCE = 1.0, 0.9, 0.1
AT_ONCE = 50  # images in a batch that is checked
BLOCKS, BLOCK_MS = 30, 30.0  # that are timed


@dataclass(frozen=True)
class Int8Report:
    """A file in int8 beside the same in float32.

    Args:
        images: How many gave their ranges.
        layers: How many layers have weights.
        in_fp32: Those of them that were left in float32.
        overflow_fix: True where weights use half of their range, as on x86 without VNNI.
        output_error: Mean squared difference from the network's outputs over their variance.
        agreement: Share of images with the network's first answer, 0..1; None where outputs are not
            ``[batch, classes]``.
        top1: Share of right first answers, where all images had labels.
        size_mb: Megabytes (10⁶ bytes) in float32 and in int8.
        latency: int8 over float32, in the file's engine, for the example.
        judges: How many judged a drop of accuracy; 0 without one.
        judged_loss: Share of right answers that these say is lost; None without them.
        lost: A sentence where int8 costs much, and what helps; "" where it does not.
    """

    images: int
    layers: int
    in_fp32: tuple[str, ...]
    overflow_fix: bool
    output_error: float
    agreement: float | None
    top1: float | None
    size_mb: tuple[float, float]
    latency: Comparison
    judges: int
    judged_loss: float | None
    lost: str


def checked_in_int8(
    model: nn.Module,
    plain: Path,
    made: Path,
    int8: Int8,
    check: Iterable[Checked] | None,
    example: Tensor,
    engine: str,
) -> tuple[Parity, Int8Report]:
    """Quantise a file, and hold both against the network and each other.

    Args:
        model: The network.
        plain: Its file in float32.
        made: Path of the file in int8.
        int8: How it is quantised.
        check: Batches to check with; None: those that give the ranges.
        example: A batch, to time.
    Returns:
        The file in float32 beside the network, and that in int8 beside both.
    """
    threads = torch.get_num_threads()
    images = images_for_ranges(int8.images, example)
    file_parity(model, plain, engine, [example], example)  # that it runs at all, before what takes minutes
    judges = judges_of(int8, model, images)
    done = quantise_file(plain, made, engine=engine, images=images, judges=judges)
    with ExitStack() as stack:
        files = [stack.enter_context(FileRunner(file, engine, threads=threads)) for file in (plain, made)]
        batches = images.split(AT_ONCE) if check is None else check
        in_fp32, in_int8 = parity(model, files, batches, example.dtype)
    with ExitStack() as stack:
        a, b = (stack.enter_context(FileRunner(file, engine, example, threads=threads)) for file in (plain, made))
        conditions = Conditions(engine, threads, precisions=("fp32", "int8"))
        latency = interleaved(a, b, blocks=BLOCKS, block_ms=BLOCK_MS, conditions=conditions)
    return in_fp32, Int8Report(
        done.images,
        done.layers,
        done.in_fp32,
        done.overflow_fix,
        in_int8.output_error,
        in_int8.agreement,
        in_int8.top1[1],
        (size_mb(plain), size_mb(made)),
        latency,
        0 if judges is None else len(judges.labels),
        done.lost,
        what_is_lost(in_int8, in_int8=done.layers - len(done.in_fp32), controlled=judges is not None),
    )


@torch.no_grad()
def judges_of(int8: Int8, model: nn.Module, images: Tensor) -> Judges | None:
    """The images that judge an accuracy drop, with their labels, or with the network's own answers."""
    if int8.max_accuracy_drop is None:
        return None
    inputs, labels, right = [], [], 0
    with evaluating(model):
        for item in images.split(AT_ONCE) if int8.judges is None else int8.judges:
            x, said = images_and_labels(item, "judges")
            x = x.cpu().to(images.dtype)
            if x.shape[1:] != images.shape[1:]:
                shapes = [tuple(batch.shape[1:]) for batch in (x, images)]
                raise InputError(f"{spelled('judges')}: images of {shapes[0]}: expected {shapes[1]}, as of the others")
            answers = tensors_in(model(x.to(device_of(model))))
            if not names_classes(answers):
                raise InputError(
                    f"{type(model).__name__} does not answer with one of several classes, as an accuracy that may drop "
                    f"needs: leave {spelled('max_accuracy_drop')} out"
                )
            own = answers[0].argmax(1).cpu()
            inputs.append(x)
            labels.append(own if said is None else said)
            right += int((own == labels[-1]).sum())
    if not inputs:
        raise InputError(f"{spelled('judges')}: expected images")
    if not right:
        raise InputError(f"{spelled('judges')}: the network is right for none of them: expected its classes as labels")
    return Judges(torch.cat(inputs), torch.cat(labels), int8.max_accuracy_drop / 100)


def what_is_lost(found: Parity, *, in_int8: int, controlled: bool) -> str:
    """A sentence where int8 costs much, or gives nothing, and what helps.

    Args:
        in_int8: Number of layers in it.
        controlled: Layers were put back into float32.
    """
    before, after = found.top1
    parts = []
    if not in_int8:
        return "no layer could stay in int8: the file in float32 is as good"
    if before is not None and after is not None and 100 * (before - after) > LOST_POINTS:
        parts.append(f"{100 * (before - after):.1f} points of top-1")
    if found.agreement is not None and found.agreement < SAME_ANSWERS:
        parts.append(f"the first answer of {100 * (1 - found.agreement):.1f} % of the images")
    if found.agreement is None and found.output_error > LOST_VARIANCE:
        parts.append(f"{found.output_error:.0%} of its outputs' variance")
    if not parts:
        return ""
    remedy = "the file in float32 has none of it"
    if not controlled and found.classifies:
        asked = spelled("max_accuracy_drop", 1)
        asked = asked if asked.startswith("--") else f"int8=Int8(images, {asked})"
        remedy = f"{asked} leaves layers in float32 until no more than a point is lost"
    return f"int8 costs this network {' and '.join(parts)}: {remedy}"
