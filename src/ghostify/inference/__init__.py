"""A network as it runs at its users' places."""

from ghostify.inference.compare import compare
from ghostify.inference.deploy import Deployed, DeployedGhost, deploy
from ghostify.inference.explain import Explanation, explain
from ghostify.inference.export import ExportReport, export
from ghostify.inference.forms import choose_forms

__all__ = [
    "Deployed",
    "DeployedGhost",
    "Explanation",
    "ExportReport",
    "choose_forms",
    "compare",
    "deploy",
    "explain",
    "export",
]
