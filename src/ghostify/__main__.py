"""``python -m ghostify``: the command line, also for torchrun."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    sys.path.append(sys.path.pop(0))  # where `python -m` puts it, a file there would hide a library of its name

from ghostify.cli import main

sys.exit(main())
