"""A network as it runs at its users' places."""

from ghostify.inference.compare import compare
from ghostify.inference.deploy import Deployed, DeployedGhost, deploy
from ghostify.inference.explain import Explanation, explain
from ghostify.inference.export import ExportReport, export

__all__ = ["Deployed", "DeployedGhost", "Explanation", "ExportReport", "compare", "deploy", "explain", "export"]
