"""How long work tells how far it is."""

from collections.abc import Callable

# Told what is going on, how it stands, steps done and steps in all.
Progress = Callable[[str, str, int, int], None]
