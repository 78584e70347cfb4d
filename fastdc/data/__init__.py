"""Datasets: named, from arrays, from files; and the sampler that draws real images class by class."""

from fastdc.data.convert import as_image_data, as_pair
from fastdc.data.image_data import ImageData, check_every_class
from fastdc.data.sampler import ClassSampler
from fastdc.data.sources.named import dataset_names, load_dataset

__all__ = ["ClassSampler", "ImageData", "as_image_data", "as_pair", "check_every_class", "dataset_names", "load_dataset"]
