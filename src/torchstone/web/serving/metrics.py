"""What the server counts, for Prometheus. One registry per server, so that two in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    def __init__(self) -> None:
        self.registry = here = CollectorRegistry()
        self.requests = Counter(
            "torchstone_requests", "Requests that were answered.", ["route", "status"], registry=here
        )
        self.seconds = Histogram(
            "torchstone_request_seconds", "Until the last byte.", ["route"], buckets=SECONDS, registry=here
        )
        self.under_way = Gauge("torchstone_requests_under_way", "Requests without an answer.", registry=here)
        self.waiting = Gauge("torchstone_inputs_waiting", "Inputs that wait for the model.", registry=here)
        self.rows = Histogram(
            "torchstone_batch_rows", "Inputs that went through together.", buckets=ROWS, registry=here
        )
        self.tokens = Counter("torchstone_tokens_made", "Tokens that were made.", registry=here)

    def text(self) -> bytes:
        return generate_latest(self.registry)
