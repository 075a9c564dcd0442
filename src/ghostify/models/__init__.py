"""The networks, and the dict that names them."""

from ghostify.models.registry import create_model, list_detectors, list_models

__all__ = ["create_model", "list_detectors", "list_models"]
