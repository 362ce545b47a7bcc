"""Augmentation of uint8 batches, on NumPy and Pillow; what a batch becomes is a function of its seed and of nothing else."""

from edgedet.data.augment.config import DEGRADATIONS, Augment

__all__ = ["DEGRADATIONS", "Augment"]
