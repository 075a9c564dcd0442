"""The command line: a file per verb, a library call per verb. The only room that prints."""

import os
import sys
from collections import UserDict
from collections.abc import Sequence
from importlib import import_module

import click
from click.shell_completion import CompletionItem

import ghostify
from ghostify.allocator import keep_freed_memory
from ghostify.cli.output import InterruptedVerbError
from ghostify.cli.spelling import as_option
from ghostify.errors import InputError, first_sentence, spelled_by
from ghostify.needed import EXTRAS, missing

INTERRUPTED = 130
BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 done, 2 bad input, 130 interrupted."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for package.module:factory; last, so that no file there hides a library
    keep_freed_memory()
    try:
        with spelled_by(as_option):
            cli.main(args=arguments, prog_name="ghostify", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help, as lines on standard error
        return BAD_INPUT
    except (InputError, click.ClickException) as error:
        return refuse(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except InterruptedVerbError as error:
        print(f"ghostify: interrupted; what was finished is kept: {error}", file=sys.stderr)
        return INTERRUPTED
    except (KeyboardInterrupt, click.Abort):  # the latter a RuntimeError
        print("ghostify: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return refuse(
            f"there is not enough memory for this: expected smaller images or batches ({first_sentence(error)})"
        )
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return refuse(str(missing(error.name)))
    finally:
        leave_process_group()
    return 0


def leave_process_group() -> None:
    """Join the threads of torchrun's process group: one that still runs while Python ends may abort the process."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """True where Python, NumPy or PyTorch, on the CPU or the GPU, could not have as much memory as was asked for."""
    of_torch: type[Exception] = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    kinds = (MemoryError, of_torch)
    return isinstance(error, kinds) or "can't allocate memory" in str(error) or "calculation overflowed" in str(error)


def refuse(message: str) -> int:
    """One line on standard error; of an error that a worker process passed on, its last.

    What a file says may be part of it, and moves no cursor.
    """
    lines = [line for line in message.strip().splitlines() if line.strip()]
    line = lines[-1].removeprefix("ghostify.errors.InputError: ") if "Traceback" in message else " ".join(lines)
    plain = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line)
    print(f"ghostify: {plain}", file=sys.stderr)
    return BAD_INPUT


# Each verb's line in the help: the first sentence of its own, which a test holds beside it.
VERBS = {
    "run": "Make a trained network as fast as you want, measured here, and keep what it knows",
    "count": "Count multiply-adds (MACs) and parameters of MODEL; of a detector for the largest image, and part by "
    "part",
    "plan": "Choose which channels of MODEL to keep, ghost, prune and merge, so that a target is met with least output "
    "error",
    "convert": "Replace the convolutions of MODEL by cheaper ones",
    "train": "Train MODEL on DATA and score it on the test images",
    "evaluate": "Score MODEL, or an exported file, on the test images of DATA",
    "detect": "Find objects: train, score and show detectors on images with boxes, COCO's layout",
    "segment": "Name the class of each pixel: train and score networks on images with masks, VOC's layout or COCO's",
    "compare": "Measure the latency of B over that of A: networks, or files of `ghostify export`",
    "explain": "Profile MODEL and its GHOST layer by layer, and say where saved work was not saved time",
    "export": "Write MODEL, deployed, for ONNX Runtime or OpenVINO, and check that the file gives the same outputs",
    "look": "Show the maps that MODEL's layers make of a photograph, and which of them are nearly copies of others",
    "models": "List the networks and detectors that are known by name",
    "recipes": "List the rows that `ghostify train --recipe NAME` trains for, and what each should reach",
}


class Commands(UserDict[str, click.Command]):
    """Verbs by name, whose files are imported when they are asked for."""

    def __getitem__(self, verb: str) -> click.Command:
        command: click.Command | None = super().__getitem__(verb)
        return command or getattr(import_module(f"{__name__}.{verb}"), verb)


class Verbs(click.Group):
    """A group that lists its verbs without their files: these take seconds, as they need PyTorch."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [CompletionItem(verb, help=line) for verb, line in VERBS.items() if verb.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=Verbs,
    commands=Commands.fromkeys(VERBS),
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(ghostify.__version__)
def cli() -> None:
    """Make a convolutional network faster by ghost maps, and measure what it costs.

    MODEL is a name from `ghostify models`, torchvision:NAME, timm:NAME, package.module:factory, or a file
    that ghostify wrote; for evaluate and compare also an exported .onnx or .xml. DATA is digits, cifar10:DIR,
    npz:FILE, imagefolder:DIR or imagenet:DIR; with boxes or masks, coco:DIR; with
    masks, voc:DIR.
    """
