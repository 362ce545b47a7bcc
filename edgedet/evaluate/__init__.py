"""Accuracy as a device sees it: per generator, degraded, at a fitted threshold, behind gates."""
