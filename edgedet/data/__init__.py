"""Data sets: folder layouts to an index, splits, the embedded data set, and the pixel cache."""
