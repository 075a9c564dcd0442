"""Networks, and the registry of their names."""

from ghostify.models.registry import create_model

__all__ = ["create_model"]
