"""Distillation and pruning (needs torch)."""
