"""Latency, throughput and memory, measured; published figures beside them."""
