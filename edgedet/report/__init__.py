"""One page of everything that is known of a line of artifacts: speed, accuracy, curves, lineage, audit, environment."""
