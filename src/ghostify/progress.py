"""The signature of functions that follow the progress of long work."""

from collections.abc import Callable

# Arguments: the task, a detail, steps done and steps in all.
Progress = Callable[[str, str, int, int], None]
