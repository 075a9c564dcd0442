"""``python -m ghostify``: the command line, also for torchrun."""

import sys

from ghostify.cli import main

sys.exit(main())
