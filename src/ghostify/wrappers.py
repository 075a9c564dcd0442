"""The network inside what other tools put around it."""

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ghostify.errors import InputError

logger = logging.getLogger(__name__)

# The attribute in which each keeps its network, whose function is its own.
CONTENTS: dict[type[nn.Module], str] = {
    nn.DataParallel: "module",
    DistributedDataParallel: "module",
    AveragedModel: "module",
    OptimizedModule: "_orig_mod",
}
# Parts of a tensor's name that only say what was put around a module.
MARKS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


class Closed(nn.Module):
    """A module that runs, and has no layers to change or count.

    Attributes:
        only_runs: A sentence that refuses it, with what to give.
    """

    only_runs: str


def unwrapped(model: nn.Module, *, quiet: bool = False) -> nn.Module:
    """The network that is to be counted, changed or saved, without wrappers around it or inside; one line is logged.

    A module of the user's with a ``module`` inside is a network like any other where its ``forward`` does more than to
    call that.

    Args:
        model: A network, perhaps in ``nn.DataParallel``, ``DistributedDataParallel``, ``AveragedModel`` or
            ``torch.compile``'s, in several of these, or with some of its parts in them; left untouched.
        quiet: Log nothing, as of a network that is only built again.
    Returns:
        The network itself; where parts of it are wrapped, a copy without, which shares its tensors.
    Raises:
        InputError: If it is no module, or one that cannot be changed: TorchScript, or sharded over processes.
    Example:
        >>> net = nn.Linear(2, 3)
        >>> unwrapped(net) is net, unwrapped(nn.DataParallel(net)) is net
        (True, True)
    """
    refuse_other_kinds(model)
    kinds: list[str] = []
    while (inner := content_of(model) or passed_on(model)) is not None:
        kinds.append(type(model).__name__)
        model = inner
    wrappers = [(module, inner) for module in model.modules() if (inner := content_of(module)) is not None]
    kinds += [type(module).__name__ for module, _ in wrappers]
    if kinds and not quiet:
        logger.warning(
            "%s: taken as the %s inside, without the wrapper", ", ".join(dict.fromkeys(kinds)), type(model).__name__
        )
    return without(model, wrappers) if wrappers else model


def content_of(module: nn.Module) -> nn.Module | None:
    """The network in one of PyTorch's wrappers; None where a module is none."""
    attribute = next((attribute for kind, attribute in CONTENTS.items() if isinstance(module, kind)), None)
    return None if attribute is None else module.get_submodule(attribute)


def passed_on(model: nn.Module) -> nn.Module | None:
    """The only child of a wrapper of somebody else, called ``module`` as PyTorch's are; None where it is none.

    Such as a trainer's average of weights. A stand-in for the child tells whether it gets the very input, and whether
    what it gives is the output; so does a ``forward`` that is not there.
    """
    children = dict(model.named_children())
    if children.keys() != {"module"} or isinstance(model, nn.ModuleDict | nn.Sequential):
        return None
    if type(model).forward is nn.Module.forward:
        return children["module"]
    shell, stand_in, given = copy.copy(model), Echo(), object()
    shell._modules = {"module": stand_in}
    try:
        passed = shell.forward(given) is stand_in.answer and stand_in.inputs == [given]
    except Exception:  # noqa: BLE001  # a forward that computes fails with what is no tensor, in any way
        return None
    return children["module"] if passed else None


class Echo(nn.Module):
    """A stand-in that remembers what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.answer, self.inputs = object(), list[Any]()

    def forward(self, *inputs: Any) -> Any:
        self.inputs += inputs
        return self.answer


def without(model: nn.Module, wrappers: list[tuple[nn.Module, nn.Module]]) -> nn.Module:
    """A copy with the same tensors, in which each wrapper is what it holds."""
    kept = (value for module in model.modules() for held in states_of(module) for value in held.values())
    memo: dict[int, Any] = {id(tensor): tensor for tensor in kept if isinstance(tensor, Tensor)}
    for module, inner in reversed(wrappers):  # the innermost first
        memo[id(module)] = copy.deepcopy(inner, memo)
    return copy.deepcopy(model, memo)


def states_of(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """The parameters, buffers and other attributes of a module itself."""
    return module._parameters, module._buffers, vars(module)


def refuse_other_kinds(model: Any) -> None:
    """Refuse what is no network in PyTorch's modules, or one whose modules are not all there."""
    kind = type(model).__name__
    if isinstance(model, torch.export.ExportedProgram | torch.jit.ScriptModule):
        raise InputError(f"{kind} is a program without layers to change: give the nn.Module that it was made from")
    if isinstance(model, nn.Module):
        for module in model.modules():
            if isinstance(module, Closed):
                raise InputError(module.only_runs)
        sharded = any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules())
        if sharded or any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
            raise InputError(
                f"{kind} has its weights sharded over processes (FSDP): gather its full state dict, and load that into "
                "the nn.Module that was wrapped"
            )
        return
    if callable(model):
        raise InputError(f"expected a torch.nn.Module, not the {kind} that makes one: call it")
    remedies = {
        str: "a network by name is create_model's or load's",
        dict: "load a state dict into the network that it is of",
    }
    remedy = next((f" ({remedy})" for known, remedy in remedies.items() if isinstance(model, known)), "")
    raise InputError(f"expected a torch.nn.Module, not {kind}{remedy}")
