"""The command line: a file per verb, a library call per verb. The only room that prints."""

import os
import sys
from collections.abc import Sequence

import click
import torch

import ghostify
from ghostify.allocator import keep_freed_memory
from ghostify.cli import (
    compare,
    convert,
    count,
    detect,
    evaluate,
    explain,
    export,
    look,
    models,
    plan,
    recipes,
    run,
    segment,
    train,
)
from ghostify.cli.beforehand import EXTRAS
from ghostify.cli.output import InterruptedVerbError
from ghostify.cli.spelling import as_option
from ghostify.errors import InputError, first_sentence, spelled_by
from ghostify.inference.needed import missing

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
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """True where Python, NumPy or PyTorch, on the CPU or the GPU, could not have as much memory as was asked for."""
    kinds = (MemoryError, torch.OutOfMemoryError)
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(ghostify.__version__)
def cli() -> None:
    """Make a convolutional network faster by ghost maps, and measure what it costs.

    MODEL is a name from `ghostify models`, torchvision:NAME, timm:NAME, package.module:factory, or a file
    that ghostify wrote; for evaluate and compare also an exported .onnx or .xml. DATA is digits, cifar10:DIR,
    npz:FILE, imagefolder:DIR or imagenet:DIR; with boxes or masks, coco:DIR; with
    masks, voc:DIR.
    """


for verb in (
    run.run,
    count.count,
    plan.plan,
    convert.convert,
    train.train,
    evaluate.evaluate,
    detect.detect,
    segment.segment,
    compare.compare,
    explain.explain,
    export.export,
    look.look,
    models.models,
    recipes.recipes,
):
    cli.add_command(verb)
