"""What condensed sets are for: continual learning."""

from fastdc.applications.continual import ContinualResult, continual_learning, split_classes

__all__ = ["ContinualResult", "continual_learning", "split_classes"]
