"""What runs a graph: a protocol, its implementations, and the Detector on top."""
