"""Architecture search: many networks trained on a small proxy of the data, the best of them on all of it."""

from fastdc.experiments.search.result import ProxyResult, SearchResult
from fastdc.experiments.search.search import architecture_search
from fastdc.experiments.search.space import PAPER_SPACE, ConvNetSpace

__all__ = ["PAPER_SPACE", "ConvNetSpace", "ProxyResult", "SearchResult", "architecture_search"]
