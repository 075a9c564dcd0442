"""Plans that come with the package fit the networks that they name."""

from pathlib import Path

import pytest
import torch
from helpers import run_cli

from ghostify import InputError, convert, create_model
from ghostify.planning.made_for import weight_shapes
from ghostify.planning.plan_file import read_plan
from ghostify.planning.zoo import plan_path, zoo_names
