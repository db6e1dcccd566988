"""GET /metrics: what the engine counted, and how things stand now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ollamapy.engine.metrics import REGISTRY
from ollamapy.server.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _State(Collector):
    """Gauges, read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        residents = self._service.residency.residents()
        names = Counter(resident.name for resident in residents)
        yield GaugeMetricFamily(
            "ollamapy_requests_open",
            "Requests that wait for their model, wait for the device or are answered.",
            self._service.open_requests,
        )
        yield GaugeMetricFamily("ollamapy_models_resident", "Models in memory.", len(residents))
        requests = GaugeMetricFamily(
            "ollamapy_requests_current", "Requests now, by state.", labels=["model", "state"]
        )
        pages = GaugeMetricFamily(
            "ollamapy_kv_pages",
            "KV pages by layer group: read by requests, kept for later ones, free.",
            labels=["model", "group", "state"],
        )
        for resident in residents:
            load = getattr(resident.model, "load", None)
            if load is None:
                continue
            now = load()
            # A name that was overwritten means another model than the one that still answers under it.
            shared = names[resident.name] > 1
            name = f"{resident.name}@{resident.wanted.digest[:12]}" if shared else resident.name
            requests.add_metric([name, "running"], now.running)
            requests.add_metric([name, "waiting"], now.waiting)
            for group, (total, free, idle) in enumerate(zip(now.pages, now.free, now.idle, strict=True)):
                for state, count in (("used", total - free - idle), ("cached", idle), ("free", free)):
                    pages.add_metric([name, str(group), state], count)
        yield requests
        yield pages


async def metrics(request: web.Request, service: Service) -> web.Response:
    state = CollectorRegistry()
    state.register(_State(service))
    body = generate_latest(REGISTRY) + generate_latest(state)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
