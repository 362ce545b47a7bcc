"""INT8 by several tools on the same graphs and images: `benchmarks/quantization.py` runs it."""
