"""How far long work is: the signature of functions that follow it, and which process tells."""

import os
from collections.abc import Callable

# Arguments: the task, a detail, steps done and steps in all.
Progress = Callable[[str, str, int, int], None]


def first_process() -> bool:
    """True in the only process, and in the one of torchrun's that writes."""
    return int(os.environ.get("RANK", "0")) == 0
