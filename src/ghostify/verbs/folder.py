"""The folder that a training writes to, where the user names one."""

import os
from pathlib import Path

from ghostify.atomic import check_writable
from ghostify.errors import InputError, spelled
from ghostify.jobs.learn import refuse_to_overwrite
from ghostify.jobs.training_folder import CHECKPOINT, FILES


def path_of(out: str | os.PathLike[str] | None, *, resume: bool, tensorboard: bool) -> Path | None:
    """The folder; None where nothing is to be written.

    Raises:
        InputError: If another training began in it, or none is named where one is needed.
        OSError: If it cannot be written.
    """
    if out is None:
        for name, wanted in (("resume", resume), ("tensorboard", tensorboard)):
            if wanted:
                raise InputError(f"{spelled(name, True)} needs a training's folder: expected {spelled('out')}")
        return None
    folder = Path(out)
    refuse_to_overwrite(folder / CHECKPOINT, resume)
    check_writable(folder, *FILES)
    return folder
