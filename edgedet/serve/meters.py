"""What the service counts, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Meters:
    """Requests by outcome, verdicts, time in each part, batch sizes, and how many images wait."""

    def __init__(self, artifact: str, waiting: Callable[[], int]) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("edgedet_requests_total", "Requests by outcome.", ("outcome",), registry=own)
        self.verdicts = Counter("edgedet_verdicts_total", "Images by verdict.", ("verdict",), registry=own)
        self.seconds = Histogram(
            "edgedet_seconds", "Seconds a request spends in each part.", ("part",), buckets=_SECONDS, registry=own
        )
        self.batch = Histogram("edgedet_batch_size", "Images that share one call of the model.", buckets=_SIZES, registry=own)
        Gauge("edgedet_waiting", "Images that wait for the model.", registry=own).set_function(lambda: float(waiting()))
        Gauge("edgedet_artifact_info", "The artifact that is served.", ("digest",), registry=own).labels(artifact).set(1)

    def page(self) -> bytes:
        """The text that a scraper reads."""
        return generate_latest(self._registry)
