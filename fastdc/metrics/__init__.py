"""How far two gradients are from each other, and which way to go: the layer-wise distance with its cotangent, by any backend."""

from fastdc.metrics.layout import Parameter, ParameterLayout
from fastdc.metrics.operator import METRICS, layerwise_distance, match_loss

__all__ = ["METRICS", "Parameter", "ParameterLayout", "layerwise_distance", "match_loss"]
