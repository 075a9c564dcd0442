"""Make a network faster: by a plan, by the paper's ratio, or by default by a plan made on the way."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ghostify.changes import AnyPlan
from ghostify.changes.ratio import GhostRatio
from ghostify.errors import InputError, spelled
from ghostify.fitting.calibration import checked_batches
from ghostify.layers.ghost_conv import Cheap
from ghostify.modes import without_autocast, without_inference_mode
from ghostify.plain_part import is_detector
from ghostify.planning.made_for import refuse_other_network
from ghostify.planning.plan_file import read_plan
from ghostify.planning.planner import plan as plan_network
from ghostify.planning.zoo import plan_path
from ghostify.progress import Progress
from ghostify.structure.surgery import module_names
from ghostify.transform.changeable import refuse_idle_patterns
from ghostify.transform.convert import Conversion, convert_network
from ghostify.transform.detector import convert_detector
from ghostify.transform.reconstruct import Effort, Reconstruction
from ghostify.wrappers import unwrapped

# Share of the multiply-adds that is left by default, where there are images.
DEFAULT_MACS = 0.5


@without_inference_mode()  # wherever it is called, and whatever the network enters: weights are to learn
@without_autocast()
def convert(  # noqa: PLR0913  # the front door: the promised names, each a setting of the user's
    model: nn.Module,
    *,
    ratio: int | None = None,
    cheap_kernel_size: int | None = None,
    cheap: Cheap | None = None,
    skip: Sequence[str] = (),
    input_shape: Sequence[int] | None = None,
    calibration: Iterable[Tensor] | Iterable[Sequence[Tensor]] | None = None,
    effort: Effort = "refined",
    plan: Mapping[str, AnyPlan] | str | Path | None = None,
    parts: Sequence[str] = ("backbone",),
    seed: int = 0,
    progress: Progress | None = None,
) -> Conversion:
    """Copy a network with its convolutions changed to cheaper ones.

    Without ``calibration`` they become the ghosts of Han et al. 2020 (arXiv:1911.11907, section 3.1): a
    ``GhostConv2d`` takes the place of the convolution alone, BatchNorm and activation behind it stay. It keeps the
    convolution's own filters for its intrinsic channels and has new cheap ones, so that the copy must be trained.

    With ``calibration`` the copy of a trained network is reconstructed without labels, see ``reconstruct``: by a
    ``plan``, by ghosts of one ratio where ``ratio``, ``cheap`` or ``cheap_kernel_size`` is set, else by a plan for half
    of the multiply-adds that is made on these images; where none can be made, as where half is out of reach, by
    pointwise ghosts of ratio 2.

    Some convolutions are left, each with its reason: depthwise, grouped and very narrow ones, gates, those with hooks,
    and those that the network reaches otherwise than by name. Converting a second time changes nothing.

    Args:
        model: Any network; left untouched.
        ratio: s, whole: one channel in s stays a convolution's; None: 2.
        cheap_kernel_size: d of depthwise cheap filters, odd; None: 3.
        cheap: "depthwise" (the paper's; the default) or "pointwise" (1×1 combinations of all intrinsic channels).
        skip: Full module names, or fnmatch patterns on them, of what to leave.
        input_shape: One input's without batch, for the multiply-adds per layer; None takes what the network was
            designed for, and leaves them out where the network cannot take that.
        calibration: Batches of inputs ``[batch, channels, height, width]``, normalised as for the network;
            some hundreds of images, no labels.
        effort: "fast" (closed form) or "refined" (blocks learn their outputs, too, and of many images the whole).
        plan: Plans of convolutions and residual blocks, by name, instead of ``ratio`` and ``skip``; others are kept.
            Or the file of a plan, or one of the zoo, such as "zoo:mobilenet_v2-1.5x". Needs calibration. One that
            ``plan`` made is for a network of the same convolutions only.
        parts: Parts of a detector of torchvision's, of "backbone", "fpn" and "head", that become ghosts of one ratio,
            pointwise ones by default; a plan says itself which layers change. Its calibration images have values 0..1
            and any size, as the detector takes them.
        seed: Seed of the samples of images.
        progress: Called at each block that is reconstructed.
    Raises:
        InputError: If no convolution can be replaced, an entry of ``skip`` names nothing, the network
            cannot take ``input_shape``, the calibration images are of no use, or the network cannot
            follow the plan.
    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32))
        >>> [(layer.name, layer.reason) for layer in convert(net).layers]
        [('0', ''), ('2', 'depthwise')]
    """
    model = unwrapped(model)
    how = Reconstruction(effort, seed, progress)
    said = any(setting is not None for setting in (ratio, cheap_kernel_size, cheap))
    if plan is not None and (calibration is None or skip or said):
        raise InputError(
            f"a plan needs calibration images ({spelled('calibration')}), and says itself what becomes of which layer: "
            f"leave out {spelled('ratio')}, {spelled('cheap')}, {spelled('cheap_kernel_size')} and {spelled('skip')}"
        )
    if isinstance(plan, str | Path):
        plan = read_plan(plan_path(plan))
    refuse_other_network(plan, model)
    by_default: Cheap = "pointwise" if calibration is not None and not said else "depthwise"
    ghosts = GhostRatio(
        2 if ratio is None else ratio, cheap or by_default, 3 if cheap_kernel_size is None else cheap_kernel_size
    )
    asked = ghosts if plan is None else plan
    if is_detector(model):
        refuse_idle_patterns(skip, [name for name, _ in model.named_modules(remove_duplicate=False)])
        changed, rows = convert_detector(model, asked, parts, skip, calibration, input_shape, how)
        return Conversion(changed, tuple(rows))
    if calibration is None or plan is not None or said:
        images: Any = calibration  # of a plain network each batch is a tensor
        return convert_network(model, asked, skip=skip, input_shape=input_shape, calibration=images, how=how)
    batches = checked_batches(calibration, model)
    refuse_idle_patterns(skip, [name for names in module_names(model).values() for name in names])
    try:
        asked = plan_network(
            model,
            example=batches[0][:1],
            calibration=batches,
            target_macs=DEFAULT_MACS,
            skip=skip,
            seed=seed,
            progress=progress,
        )
    except InputError as error:  # half is out of reach, perhaps: what can be cheaper is, all the same
        how.say("plan", f"none, so pointwise ghosts: {error}", 1, 1)
        return convert_network(model, ghosts, skip=skip, input_shape=input_shape, calibration=batches, how=how)
    return convert_network(model, asked, input_shape=input_shape, calibration=batches, how=how)
