"""Networks, and the registry of their names."""

from ghostify.models.registry import create_model, list_detectors, list_models

__all__ = ["create_model", "list_detectors", "list_models"]
