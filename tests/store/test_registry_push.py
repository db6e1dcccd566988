"""Pushes through Docker's own registry server with faults in between, over a proxy of ours."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ollamapy.store.manifest import Layer, ModelConfig, layer_type
from ollamapy.store.names import ModelName
from ollamapy.store.registry.download import Downloads
from ollamapy.store.registry.errors import RegistryError
from ollamapy.store.registry.http import Patience
from ollamapy.store.registry.key import RegistryKey
from ollamapy.store.registry.pull import Event, Transfers, pull
from ollamapy.store.registry.push import push
from ollamapy.store.store import Store
from tests.store import docker_registry

pytestmark = pytest.mark.skipif(
    docker_registry.PROGRAM is None and not docker_registry.REQUIRED, reason=docker_registry.MISSING
)
WEIGHTS = random.Random(5).randbytes(3_000_000)
HASTY = Patience(first_delay=0.01, longest_delay=0.3, silence=2.0)
Fault = Callable[[web.Request], web.StreamResponse | None]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry.running(tmp_path_factory.mktemp("registry")) as host:
        yield host


class Proxy:
    """Forwards to a registry; `fault` may answer a request in its place. Use as an asynchronous context manager."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.fault: Fault = lambda request: None
        self.requests: list[str] = []
        self.host = ""

    async def __aenter__(self) -> Proxy:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.method)
        found = self.fault(request)
        if found is not None:
            return found
        body = await request.read()
        headers = {key: value for key, value in request.headers.items() if key != "Transfer-Encoding"}
        url = f"http://{self.upstream}{request.raw_path}"
        send = self._session.request(request.method, url, data=body, headers=headers, allow_redirects=False)
        async with send as answer:
            data = await answer.read()
            kept = ("Location", "Content-Type", "Range", "Docker-Upload-UUID", "Content-Range")
            copied = {key: answer.headers[key] for key in kept if key in answer.headers}
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                copied["Content-Length"] = answer.headers["Content-Length"]
            return web.Response(status=answer.status, body=data, headers=copied)


@pytest.fixture
async def proxy(upstream: str) -> AsyncIterator[Proxy]:
    async with Proxy(upstream) as found:
        yield found


def transfers(folder: Path) -> Transfers:
    store = Store(folder / "models")
    return Transfers(store, Downloads(store.blobs), lambda: RegistryKey.load(folder / "key"), HASTY)


def make(shared: Transfers, proxy: Proxy, model: str) -> ModelName:
    name = ModelName.parse(f"{proxy.host}/t/{model}")
    store = shared.store
    with store.blobs.writing():
        digest, size = store.blobs.add([WEIGHTS + model.encode()])
        layers = [Layer(media_type=layer_type("model"), digest=digest, size=size)]
        config = ModelConfig(model_format="gguf", model_family="llama", model_families=["llama"])
        store.write(name, config, layers)
    return name


async def send(shared: Transfers, name: ModelName) -> list[Event]:
    async with aclosing(push(shared, name, insecure=True)) as events:
        return [event async for event in events]


async def arrived(folder: Path, proxy: Proxy, name: ModelName, model: str) -> bool:
    """Whether a pull elsewhere gets what was pushed."""
    proxy.fault = lambda request: None
    other = transfers(folder / "other")
    async with aclosing(pull(other, name, insecure=True)) as events:
        async for _ in events:
            pass
    return other.store.get(name).model_path.read_bytes() == WEIGHTS + model.encode()


def first(times: int, method: str, answer: Callable[[web.Request], web.StreamResponse]) -> Fault:
    left = [times]

    def fault(request: web.Request) -> web.StreamResponse | None:
        if request.method != method or not left[0]:
            return None
        left[0] -= 1
        return answer(request)

    return fault


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [429, 503])
async def test_passing_failures_are_retried(tmp_path: Path, proxy: Proxy, method: str, status: int) -> None:
    headers = {"Retry-After": "0"}
    model = f"{method.lower()}{status}"
    shared = transfers(tmp_path)
    name = make(shared, proxy, model)
    proxy.fault = first(3, method, lambda request: web.Response(status=status, text="busy", headers=headers))
    assert (await send(shared, name))[-1] == {"status": "success"}
    assert await arrived(tmp_path, proxy, name, model)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
async def test_broken_connections_are_retried(tmp_path: Path, proxy: Proxy, method: str) -> None:
    def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    shared = transfers(tmp_path)
    name = make(shared, proxy, f"reset{method.lower()}")
    proxy.fault = first(2, method, reset)
    assert (await send(shared, name))[-1] == {"status": "success"}
    assert await arrived(tmp_path, proxy, name, f"reset{method.lower()}")


async def test_retry_after_is_obeyed(tmp_path: Path, proxy: Proxy) -> None:
    shared = transfers(tmp_path)
    name = make(shared, proxy, "later")
    headers = {"Retry-After": "1000"}  # no longer than our longest delay
    proxy.fault = first(1, "POST", lambda request: web.Response(status=429, headers=headers))
    loop = asyncio.get_running_loop()
    start = loop.time()
    await send(shared, name)
    assert loop.time() - start >= HASTY.longest_delay


@pytest.mark.parametrize(("status", "tries"), [(429, "many"), (503, "many"), (403, "one"), (501, "one")])
async def test_what_does_not_pass_is_told(tmp_path: Path, proxy: Proxy, status: int, tries: str) -> None:
    shared = transfers(tmp_path)
    name = make(shared, proxy, f"never{status}")
    proxy.fault = first(100, "PATCH", lambda request: web.Response(status=status, text="never"))
    with pytest.raises(RegistryError, match=f"{status}: never"):
        await send(shared, name)
    sent: Any = proxy.requests.count("PATCH")
    assert sent == (HASTY.blob_tries if tries == "many" else 1)


async def test_a_token_is_renewed(tmp_path: Path, proxy: Proxy) -> None:
    """A token that ends in the middle of an upload is asked for anew; the upload goes on."""
    tokens = ["one"]

    def guard(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return web.json_response({"token": tokens[-1]})
        if request.method == "PATCH" and len(tokens) == 1:
            tokens.append("two")
        if request.headers.get("Authorization") != f"Bearer {tokens[-1]}":
            challenge = f'Bearer realm="http://{proxy.host}/token",service="x",scope="repository:t/m:push"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return None

    shared = transfers(tmp_path)
    name = make(shared, proxy, "renewed")
    proxy.fault = guard
    assert (await send(shared, name))[-1] == {"status": "success"}
    assert len(tokens) == 2
    assert await arrived(tmp_path, proxy, name, "renewed")
