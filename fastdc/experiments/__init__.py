"""What condensed sets are for, and how they compare: continual learning, architecture search, and the paper's tables."""

from fastdc.experiments.continual import ContinualResult, continual_learning, split_classes
from fastdc.experiments.search import ConvNetSpace, SearchResult, architecture_search

__all__ = ["ContinualResult", "ConvNetSpace", "SearchResult", "architecture_search", "continual_learning", "split_classes"]
