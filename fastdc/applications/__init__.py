"""What condensed sets are for: continual learning and architecture search."""

from fastdc.applications.continual import ContinualResult, continual_learning, split_classes
from fastdc.applications.search import ConvNetSpace, SearchResult, architecture_search

__all__ = ["ContinualResult", "ConvNetSpace", "SearchResult", "architecture_search", "continual_learning", "split_classes"]
