"""How far two gradients are from each other, and which way to go: the layer-wise distance with its cotangent, by any backend."""

from fastdc.metrics.definitions import METRICS, Definition, Metric
from fastdc.metrics.layout import ROWS, Parameter, ParameterLayout
from fastdc.metrics.operator import layerwise_distance, match_loss

__all__ = ["METRICS", "ROWS", "Definition", "Metric", "Parameter", "ParameterLayout", "layerwise_distance", "match_loss"]
