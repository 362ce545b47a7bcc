"""INT8 on ONNX graphs: ranges, placement by target, sensitivity."""
