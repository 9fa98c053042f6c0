"""Measures of a server for Prometheus: requests, their times, batches, what waits, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Measures:
    """The measures of one server."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("limosa_requests", "Requests answered.", ("route", "status"), registry=own)
        self.seconds = Histogram(
            "limosa_request_seconds", "From the first byte to the answer.", ("route",), buckets=_SECONDS, registry=own
        )
        self.running = Gauge("limosa_requests_running", "Requests being answered.", registry=own)
        self.series = Counter("limosa_series", "Series read.", ("route",), registry=own)
        self.received = Counter("limosa_received_bytes", "Bytes of bodies.", ("route",), registry=own)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.batch_requests = Histogram(
            "limosa_batch_requests", "Requests answered in one pass.", ("model",), buckets=sizes, registry=own
        )
        self.batch_series = Histogram(
            "limosa_batch_series", "Series answered in one pass.", ("model",), buckets=sizes, registry=own
        )
        self.model_seconds = Counter("limosa_model_seconds", "Time in a model.", ("model",), registry=own)
        self.queue = Gauge("limosa_queue", "Forecasts that wait for a model.", registry=own)
        self.streams = Gauge("limosa_streams", "Streams that are kept.", registry=own)
        self.jobs = Gauge("limosa_jobs", "Jobs by state.", ("state",), registry=own)

    def batch(self, model: str, requests: int, series: int, seconds: float) -> None:
        """One pass of a model was made."""
        self.batch_requests.labels(model).observe(requests)
        self.batch_series.labels(model).observe(series)
        self.model_seconds.labels(model).inc(seconds)

    def waiting(self, of: Callable[[], Mapping[str, int]]) -> None:
        """Take the length of the queue from a function, when it is asked for."""
        self.queue.set_function(lambda: float(sum(of().values())))

    def count_jobs(self, states: Mapping[str, int]) -> None:
        """So many jobs are in each state."""
        self.jobs.clear()
        for state, number in states.items():
            self.jobs.labels(state).set(number)

    def text(self) -> bytes:
        """All of it in Prometheus' form."""
        return generate_latest(self.registry)
