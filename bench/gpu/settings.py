"""Sizes of every stage: those of CIFAR10 on a GPU, tiny ones without."""

from __future__ import annotations

import torch

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
MODEL = "convnet" if GPU else "convnet:width=4,depth=2"
SIZE = (32, 32) if GPU else (8, 8)
CLASSES, REAL, COUNT = (10, 256, 20_000) if GPU else (10, 4, 200)
IPCS = (10, 1, 50, 200) if GPU else (2, 1)  # the most wanted first
METRIC, PRECISIONS = "layerwise_cosine", ("float32", "tf32", "bfloat16")
LR_MODEL, LR_IMAGES = 0.01, 0.1
