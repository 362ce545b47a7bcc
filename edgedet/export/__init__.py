"""Checkpoints to graphs that hold: ONNX, lint, parity."""
