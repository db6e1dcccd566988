"""Pulls from a registry that misbehaves in every way we know of."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ollamapy.store.names import ModelName
from ollamapy.store.registry.download import Downloads
from ollamapy.store.registry.errors import RegistryError
from ollamapy.store.registry.http import Patience
from ollamapy.store.registry.key import RegistryKey
from ollamapy.store.registry.pull import Transfers, pull
from ollamapy.store.store import Store
from ollamapy.types import RequestError, UnsupportedModelError
from tests.store.fault_registry import FaultRegistry, digest_of

SIZE = 3_000_000
WEIGHTS = random.Random(1).randbytes(SIZE)
HASTY = Patience(first_delay=0.01, longest_delay=0.3, silence=0.4)


@pytest.fixture
async def registry() -> AsyncIterator[FaultRegistry]:
    async with FaultRegistry(WEIGHTS) as found:
        yield found


def transfers(folder: Path) -> Transfers:
    store = Store(folder / "models")
    return Transfers(store, Downloads(store.blobs, 200_000), lambda: RegistryKey.load(folder / "key"), HASTY)


async def fetch(shared: Transfers, registry: FaultRegistry, model: str = "m") -> list[dict[str, Any]]:
    name = ModelName.parse(f"{registry.host}/t/{model}")
    return [event async for event in pull(shared, name, insecure=True)]


def stored(shared: Transfers, registry: FaultRegistry) -> bytes:
    return shared.store.get(ModelName.parse(registry.name)).model_path.read_bytes()


def leftovers(shared: Transfers) -> list[str]:
    return sorted(path.name for path in shared.store.blobs.folder.glob("*partial*"))


async def test_a_model_arrives_and_the_manifest_is_kept_byte_for_byte(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    shared = transfers(tmp_path)
    events = await fetch(shared, registry)
    statuses = list(dict.fromkeys(event["status"] for event in events))
    digests = [digest_of(WEIGHTS), digest_of(b"Free.\n"), digest_of(registry.config)]
    pulling = [f"pulling {digest[7:19]}" for digest in digests]
    assert statuses == [
        "pulling manifest", *pulling, "verifying sha256 digest", "writing manifest", "success",
    ]  # fmt: skip
    assert stored(shared, registry) == WEIGHTS
    path = shared.store.manifests / ModelName.parse(registry.name).path
    assert path.read_bytes() == registry.manifest
    assert leftovers(shared) == []
    weights = [event for event in events if event.get("digest") == registry.weights]
    assert all(event["total"] == SIZE for event in weights)
    assert weights[-1]["completed"] == SIZE
    assert registry.sent[registry.weights] == SIZE
    ranges = {
        headers.get("Range") for _, path, headers in registry.requests if path.endswith(registry.weights)
    }
    assert len(ranges) == 15
    registry.sent.clear()
    await fetch(shared, registry)  # nothing is fetched twice
    assert not registry.sent


async def test_an_update_removes_what_is_unused(tmp_path: Path, registry: FaultRegistry) -> None:
    shared = transfers(tmp_path)
    await fetch(shared, registry)
    async with FaultRegistry(WEIGHTS[:1000]) as other:
        registry.manifest = other.manifest
        registry.blobs = other.blobs
        events = await fetch(shared, registry)
    assert [event["status"] for event in events][-2:] == ["removing unused layers", "success"]
    assert stored(shared, registry) == WEIGHTS[:1000]
    assert not shared.store.blobs.has(registry.weights)


def failing(times: int, answer: Callable[[], web.Response], part: str) -> Callable[[web.Request], Any]:
    """A fault that hits the first `times` requests to paths with `part`."""
    left = [times]

    def fault(request: web.Request) -> web.Response | None:
        if part in request.path and left[0]:
            left[0] -= 1
            return answer()
        return None

    return fault


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
async def test_passing_failures_are_retried(
    tmp_path: Path, registry: FaultRegistry, status: int, part: str
) -> None:
    headers = {"Retry-After": "0"}
    page = failing(3, lambda: web.Response(status=status, text="<html>busy</html>", headers=headers), part)
    registry.faults.append(page)
    shared = transfers(tmp_path)
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS


async def test_retry_after_is_obeyed(tmp_path: Path, registry: FaultRegistry) -> None:
    registry.faults.append(
        failing(1, lambda: web.Response(status=429, headers={"Retry-After": "0.3"}), "/none/")
    )
    headers = {"Retry-After": "1000"}  # no longer than our longest delay
    registry.faults.append(failing(1, lambda: web.Response(status=429, headers=headers), "/manifests/"))
    loop = asyncio.get_running_loop()
    start = loop.time()
    await fetch(transfers(tmp_path), registry)
    assert loop.time() - start >= HASTY.longest_delay


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: web.Response(status=500, text="boom"), "pull model manifest: 500: boom"),
        (lambda: web.Response(status=404), "pull model manifest: file does not exist"),
        (lambda: web.Response(status=403, text="no"), "pull model manifest: 403: no"),
        (lambda: web.Response(text="{}"), "pull model manifest: not a model manifest"),
        (lambda: web.Response(text="[" * 100_000), "pull model manifest: not a model manifest"),
        (lambda: web.Response(body=bytes(5 << 20)), "pull model manifest: an answer of more than"),
        (lambda: web.Response(status=401, headers={"WWW-Authenticate": "Bearer realm="}), 'realm host ""'),
        (lambda: web.Response(status=401), 'realm host ""'),
        (lambda: web.Response(status=307, headers={"Location": "file:///etc/passwd"}), "a redirect to"),
        (lambda: web.Response(status=307, headers={"Location": "/v2/t/m/manifests/latest"}), "10 redirects"),
    ],
)
async def test_what_is_no_manifest_is_refused(
    tmp_path: Path, registry: FaultRegistry, answer: Callable[[], web.Response], message: str
) -> None:
    shared = transfers(tmp_path)
    await fetch(shared, registry)
    registry.faults.append(failing(1_000, answer, "/manifests/"))
    with pytest.raises(RegistryError, match=message):
        await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS  # the old model is intact


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "sha256:../../../../etc/passwd"}, "invalid digest format"),
        ({"digest": "sha256:" + "0" * 63}, "invalid digest format"),
        ({"size": -1}, "a layer of -1 bytes"),
        ({"size": 1 << 60}, "a layer of"),
        ({"size": 1 << 49}, "no space left on device"),
        ({"size": "7"}, "not a model manifest"),
        ({"size": SIZE - 1}, "digest mismatch"),
        ({"size": SIZE + 1}, "unexpected EOF|no answer in time|Get "),
    ],
)
async def test_hostile_layers(
    tmp_path: Path, registry: FaultRegistry, change: dict[str, Any], message: str
) -> None:
    manifest = json.loads(registry.manifest)
    manifest["layers"][0].update(change)
    registry.manifest = json.dumps(manifest).encode()
    shared = transfers(tmp_path)
    with pytest.raises(RequestError, match=message):
        await fetch(shared, registry)
    assert shared.store.list() == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_family": "mamba"}, "'mamba'"),
        ({"model_family": "llama", "file_type": "IQ2_XXS"}, "'IQ2_XXS'"),
        ({"model_family": "llama", "model_format": "safetensors"}, "'safetensors'"),
    ],
)
async def test_what_we_cannot_run_is_refused_before_it_is_fetched(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    async with FaultRegistry(WEIGHTS, config) as registry:
        with pytest.raises(UnsupportedModelError, match=message):
            await fetch(transfers(tmp_path), registry)
        assert not registry.sent[registry.weights]


async def test_a_corrupted_blob_never_gets_its_name(tmp_path: Path, registry: FaultRegistry) -> None:
    registry.blobs[registry.weights] = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    shared = transfers(tmp_path)
    with pytest.raises(RegistryError, match="digest mismatch, file must be downloaded again: want"):
        await fetch(shared, registry)
    assert not shared.store.blobs.has(registry.weights)
    assert leftovers(shared) == []
    registry.blobs[registry.weights] = WEIGHTS
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS


async def test_a_truncated_blob_of_ours_is_repaired(tmp_path: Path, registry: FaultRegistry) -> None:
    shared = transfers(tmp_path)
    await fetch(shared, registry)
    shared.store.blobs.path(registry.weights).write_bytes(WEIGHTS[:1000])
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS


async def abort(shared: Transfers, registry: FaultRegistry) -> None:
    """Leave a pull after about half of the weights has arrived."""
    registry.most = SIZE // 2
    events = pull(shared, ModelName.parse(registry.name), insecure=True)
    async for event in events:
        if event.get("completed", 0) > SIZE // 4 and event["total"] == SIZE:
            break
    await events.aclose()
    registry.most = None
    assert shared.store.list() == []
    assert leftovers(shared)


async def test_an_aborted_transfer_goes_on_where_it_was(tmp_path: Path, registry: FaultRegistry) -> None:
    await abort(transfers(tmp_path), registry)
    shared = transfers(tmp_path)
    before = registry.sent[registry.weights]
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS
    assert registry.sent[registry.weights] - before < 3 * SIZE // 4


@pytest.mark.parametrize("spoil", ["bytes", "state", "json", "longer"])
async def test_a_garbled_partial_file_costs_a_restart_at_most(
    tmp_path: Path, registry: FaultRegistry, spoil: str
) -> None:
    shared = transfers(tmp_path)
    await abort(shared, registry)
    blob = shared.store.blobs.path(registry.weights)
    partial = blob.with_name(blob.name + "-partial")
    states = sorted(blob.parent.glob(partial.name + "-*"))
    if spoil == "bytes":
        partial.write_bytes(bytes(partial.stat().st_size))
    elif spoil == "longer":
        partial.write_bytes(bytes(SIZE + 1))
    elif spoil == "json":
        states[0].write_text("{")
    else:
        states[0].write_text('{"N":0,"Offset":0,"Size":5,"Completed":7}')
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS
    assert leftovers(shared) == []


async def test_concurrent_pulls_share_one_transfer(tmp_path: Path, registry: FaultRegistry) -> None:
    shared = transfers(tmp_path)

    async def leave_early() -> None:
        events = pull(shared, ModelName.parse(registry.name), insecure=True)
        async for event in events:
            if event.get("completed"):
                break
        await events.aclose()

    await asyncio.gather(leave_early(), *(fetch(shared, registry) for _ in range(4)))
    assert stored(shared, registry) == WEIGHTS
    assert registry.sent[registry.weights] == SIZE


async def test_a_registry_without_ranges(tmp_path: Path, registry: FaultRegistry) -> None:
    registry.ranges = False
    shared = transfers(tmp_path)
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS


async def test_silence_is_no_answer(tmp_path: Path, registry: FaultRegistry) -> None:
    async def silent(request: web.Request) -> None:
        if "/manifests/" in request.path:
            await asyncio.sleep(60)

    registry.faults.append(silent)
    with pytest.raises(RegistryError, match=r"pull model manifest: Get .*no answer in time"):
        await fetch(transfers(tmp_path), registry)


async def test_stalled_and_truncated_bodies_are_fetched_again(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    left = [4]

    async def stall(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith(registry.weights) or not left[0]:
            return None
        left[0] -= 1
        start, end = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        headers = {"Content-Range": f"bytes {start}-{end}/{SIZE}", "Content-Length": str(end + 1 - start)}
        response = web.StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        await response.write(WEIGHTS[start : start + 1000])
        if left[0] % 2:
            await asyncio.sleep(60)
        assert request.transport is not None
        request.transport.close()
        return response

    registry.faults.append(stall)
    shared = transfers(tmp_path)
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS


async def test_the_key_answers_the_challenge(tmp_path: Path, registry: FaultRegistry) -> None:
    registry.token = "secret"
    shared = transfers(tmp_path)
    await fetch(shared, registry)
    assert stored(shared, registry) == WEIGHTS
    assert sum(path == "/token" for _, path, _ in registry.requests) == 1
    assert (tmp_path / "key/id_ed25519").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key/id_ed25519.pub").read_text().startswith("ssh-ed25519 ")


async def test_a_strange_realm_gets_no_signature(tmp_path: Path, registry: FaultRegistry) -> None:
    registry.token = "secret"
    registry.realm = "http://example.com/token"
    with pytest.raises(
        RegistryError, match=rf'realm host "example.com" does not match original host "{registry.host}"'
    ):
        await fetch(transfers(tmp_path), registry)


async def test_redirects_get_no_token(tmp_path: Path, registry: FaultRegistry) -> None:
    """Blobs lie with another server; what proves who we are stays with the registry."""
    registry.token = "secret"
    async with FaultRegistry(WEIGHTS) as storage:

        def elsewhere(request: web.Request) -> web.Response | None:
            if not request.path.endswith(registry.weights) or "Authorization" not in request.headers:
                return None
            return web.Response(status=307, headers={"Location": f"http://{storage.host}{request.path}"})

        registry.faults.append(elsewhere)
        shared = transfers(tmp_path)
        await fetch(shared, registry)
        assert stored(shared, registry) == WEIGHTS
        assert storage.requests
        assert not any("Authorization" in headers for _, _, headers in storage.requests)


async def test_nobody_listens(tmp_path: Path) -> None:
    name = ModelName.parse("127.0.0.1:1/t/m")
    with pytest.raises(
        RegistryError, match=r'pull model manifest: Get "https://127.0.0.1:1/v2/t/m/manifests/latest"'
    ):
        async for _ in pull(transfers(tmp_path), name, insecure=False):
            pass
