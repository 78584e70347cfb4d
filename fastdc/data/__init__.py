"""Datasets: named, from arrays, from files; and the sampler that draws real images class by class."""

from fastdc.data.convert import as_image_data
from fastdc.data.image_data import ImageData
from fastdc.data.named import dataset_names, load_dataset
from fastdc.data.sampler import ClassSampler

__all__ = ["ClassSampler", "ImageData", "as_image_data", "dataset_names", "load_dataset"]
