"""A network as it runs at its users' places."""

from ghostify.inference.deploy import Deployed, DeployedGhost, deploy

__all__ = ["Deployed", "DeployedGhost", "deploy"]
