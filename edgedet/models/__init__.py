"""One file per family of detectors and one table of builders (needs torch)."""
