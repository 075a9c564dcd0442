"""The changes that a convolution or a residual block can undergo: a file for each kind."""

from ghostify.changes.change import BlockChange, Change, Fitted, InputChange, OutputChange
from ghostify.changes.depthwise import DepthwiseGhosts
from ghostify.changes.keep import Keep
from ghostify.changes.layer import Convolution, ResidualBlock, Sizes
from ghostify.changes.layer_plan import AnyPlan, BlockPlan, LayerPlan
from ghostify.changes.merge import MergeInputs
from ghostify.changes.one_convolution import OneConvolution
from ghostify.changes.pointwise import PointwiseGhosts
from ghostify.changes.prune import Prune
from ghostify.changes.registry import register

__all__ = [
    "AnyPlan",
    "BlockChange",
    "BlockPlan",
    "Change",
    "Convolution",
    "DepthwiseGhosts",
    "Fitted",
    "InputChange",
    "Keep",
    "LayerPlan",
    "MergeInputs",
    "OneConvolution",
    "OutputChange",
    "PointwiseGhosts",
    "Prune",
    "ResidualBlock",
    "Sizes",
    "register",
]
