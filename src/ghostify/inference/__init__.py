"""A network as it runs at its users' places."""

from ghostify.inference.compare import compare
from ghostify.inference.deploy import Deployed, DeployedGhost, deploy
from ghostify.inference.explain import Explanation, explain
from ghostify.inference.export import ExportReport, export
from ghostify.inference.file_network import FileNetwork
from ghostify.inference.forms import choose_forms
from ghostify.inference.in_int8 import Int8Report
from ghostify.inference.quantize import Int8

__all__ = [
    "Deployed",
    "DeployedGhost",
    "Explanation",
    "ExportReport",
    "FileNetwork",
    "Int8",
    "Int8Report",
    "choose_forms",
    "compare",
    "deploy",
    "explain",
    "export",
]
