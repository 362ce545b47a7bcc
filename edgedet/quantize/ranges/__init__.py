"""Finding the range of every tensor on real images: observed once (:mod:`histogram`), picked by a method (:mod:`methods`).

What is observed does not depend on the method, so it is what is kept between runs (:mod:`cache`), and trying another method
costs no pass over the images.
"""

from __future__ import annotations

from edgedet.quantize.ranges.find import find_channel_ranges, find_ranges
from edgedet.quantize.ranges.histogram import BINS, Histogram, observe, observe_channels
from edgedet.quantize.ranges.methods import Method, Range, choose, squared_error
from edgedet.quantize.session import Batches

__all__ = [
    "BINS",
    "Batches",
    "Histogram",
    "Method",
    "Range",
    "choose",
    "find_channel_ranges",
    "find_ranges",
    "observe",
    "observe_channels",
    "squared_error",
]
