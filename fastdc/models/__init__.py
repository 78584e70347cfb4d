"""Networks: one file per architecture, and a registry by name."""

from fastdc.models.registry import ModelFactory, as_factory, build, model_names

__all__ = ["ModelFactory", "as_factory", "build", "model_names"]
