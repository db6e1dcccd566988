"""A registry on loopback that misbehaves on request, and counts what it sends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from ollamapy.store.manifest import CONFIG_TYPE, MANIFEST_TYPE, layer_type

Fault = Callable[[web.Request], Any]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class FaultRegistry:
    """Serves one model `t/m`: weights, a license and a config. Use as an asynchronous context manager."""

    def __init__(self, weights: bytes, config: dict[str, Any] | None = None) -> None:
        self.config = json.dumps(config or {"model_format": "gguf", "model_family": "llama"}).encode()
        license_text = b"Free.\n"
        self.blobs = {digest_of(data): data for data in (weights, self.config, license_text)}
        self.weights = digest_of(weights)
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": _entry(CONFIG_TYPE, self.config),
                "layers": [_entry(layer_type("model"), weights), _entry(layer_type("license"), license_text)],
            },
            indent=1,
        ).encode()
        self.faults: list[Fault] = []  # each may answer a request, by returning a response or None
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent: Counter[str] = Counter()  # bytes by digest
        self.ranges = True
        self.most: int | None = None  # bytes of a blob after which nothing more comes
        self.token: str | None = None  # asked for when set
        self.realm = ""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return f"{self.host}/t/m"

    async def __aenter__(self) -> FaultRegistry:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.headers)))
        for fault in self.faults:
            found = fault(request)
            if asyncio.iscoroutine(found):
                found = await found
            if found is not None:
                return found
        if request.path == "/token":
            return self._give_token(request)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            realm = self.realm or f"http://{self.host}/token"
            challenge = f'Bearer realm="{realm}",service="{self.host}",scope="repository:t/m:pull repository:t/m:push"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if request.path == "/v2/t/m/manifests/latest" and request.method == "GET":
            return web.Response(body=self.manifest, content_type=MANIFEST_TYPE)
        if request.path.startswith("/v2/t/m/blobs/"):
            data = self.blobs.get(request.path.rpartition("/")[2])
            if data is not None:
                return await self._blob(request, data)
        return web.Response(status=404)

    def _give_token(self, request: web.Request) -> web.Response:
        """Check the signature as Ollama's registry does."""
        key, _, signature = request.headers["Authorization"].partition(":")
        url = f"http://{self.host}{request.raw_path}"
        nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        public: Any = load_ssh_public_key(b"ssh-ed25519 " + key.encode())
        public.verify(base64.b64decode(signature), f"GET,{url},{nothing}".encode())
        assert request.query.getall("scope") == ["repository:t/m:pull", "repository:t/m:push"]
        assert len(base64.urlsafe_b64decode(request.query["nonce"] + "==")) == 16
        assert list(request.query) == sorted(request.query)
        return web.json_response({"token": self.token})

    async def _blob(self, request: web.Request, data: bytes) -> web.StreamResponse:
        start, end, status, headers = 0, len(data), 200, {}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if found and self.ranges:
            start, end, status = int(found[1]), int(found[2]) + 1, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = end - start
        await response.prepare(request)
        for position in range(start, end, 1 << 16):
            digest = request.path.rpartition("/")[2]
            while self.most is not None and self.sent[digest] >= self.most:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            block = data[position : min(position + (1 << 16), end)]
            await response.write(block)
            self.sent[digest] += len(block)
            await asyncio.sleep(0)
        await response.write_eof()
        return response


def _entry(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}
