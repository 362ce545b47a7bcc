"""The search for the detector that fits a device: students, widths, pruning and precision, by successive halving."""
