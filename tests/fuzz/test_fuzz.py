"""Hostile files and texts end in a clear error of ours, soon. `make fuzz` runs longer."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ollamapy import _core, models
from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.store.convert import convert_model
from ollamapy.store.facts import read_facts
from ollamapy.store.modelfile import parse_modelfile
from ollamapy.store.quantize import quantized
from ollamapy.types import RequestError
from tests.fuzz.mutation import mutate_bytes, mutate_text
from tests.models.forward import Forward
from tests.server.harness import RunningServer, add_gguf

INPUTS = int(os.environ.get("FUZZ_INPUTS", "500"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
MODELS = Path(__file__).parents[1] / "golden" / "models"
PATIENCE = 10.0  # seconds for one input, on a build that is slow and a machine that is busy
EXPECTED = (_core.GGUFError, RequestError)


def dices(name: str, share: float) -> Iterator[random.Random]:
    """A generator of random numbers for each of a test's share of the inputs; it tells how to repeat one."""
    for number in range(max(1, int(INPUTS * share))):
        key = f"{SEED}/{name}/{number}"
        start = time.monotonic()
        try:
            yield random.Random(key)
        except BaseException:
            print(f"input {key}")
            raise
        assert time.monotonic() - start < PATIENCE, f"input {key} took too long"


def headers(path: Path) -> tuple[bytes, int]:
    data = path.read_bytes()
    return data, min(tensor.offset for tensor in _core.GGUFFile(str(path)).tensors())


def load(path: Path) -> None:
    """What a server does with a file, up to a step of the model."""
    file = _core.GGUFFile(str(path))
    for key in file.keys():  # noqa: SIM118 (not a mapping)
        file.get(key)
    read_facts(file)
    models.check(file)
    tokenizer = _core.Tokenizer(file)
    tokens = tokenizer.encode("What is light? \u00e9\U0001f600")
    tokenizer.decode(tokens)
    model = Forward(path, 1, context=64)
    try:
        model.logits(tokens[:16], 0, 16)
    finally:
        model.close()


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3", "tiny-gemma3"])
def test_gguf(name: str, tmp_path: Path) -> None:
    data, header = headers(MODELS / f"{name}.gguf")
    path = tmp_path / "hostile.gguf"
    accepted = 0
    for dice in dices(name, 0.15):
        path.write_bytes(mutate_bytes(data, dice, header))
        with contextlib.suppress(*EXPECTED):
            load(path)
            accepted += 1
    assert accepted  # many changes do no harm: the test reaches behind the reader


def test_quantizing(tmp_path: Path) -> None:
    data, header = headers(MODELS / "tiny-llama.gguf")
    path = tmp_path / "hostile.gguf"
    for dice in dices("quantize", 0.02):
        path.write_bytes(mutate_bytes(data, dice, header))
        with contextlib.suppress(*EXPECTED):
            for _ in quantized(path, "Q4_0", threads=1):
                pass


def safetensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    table: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 4
        for dimension in shape:
            size *= dimension
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(table).encode()
    return struct.pack("<Q", len(head)) + head + bytes(offset)


def test_model_folders(tmp_path: Path) -> None:
    """A Llama of one layer: its weights' header, its configuration and its tokenizer."""
    width, hidden, words = 8, 16, 12
    layer = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, width),
        "model.norm.weight": (width,),
        layer + "input_layernorm.weight": (width,),
        layer + "post_attention_layernorm.weight": (width,),
        **{layer + f"self_attn.{part}_proj.weight": (width, width) for part in "qkvo"},
        **{layer + f"mlp.{part}_proj.weight": (hidden, width) for part in ("gate", "up")},
        layer + "mlp.down_proj.weight": (width, hidden),
    }
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": width, "intermediate_size": hidden,
        "num_hidden_layers": 1,        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "vocab_size": words, "rope_theta": 10000.0, "tie_word_embeddings": True,
    }  # fmt: skip
    vocabulary = {chr(97 + i): i for i in range(words)}
    tokenizer = {
        "added_tokens": [{"id": 0, "content": "a", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    good = {
        "model.safetensors": safetensors(shapes),
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": b'{"bos_token": "a", "chat_template": "{{ messages }}"}',
    }
    paths = {name: tmp_path / name for name in good}
    for dice in dices("folder", 0.15):
        spoilt = dice.choice(list(good))
        for name, data in good.items():
            if name != spoilt:
                paths[name].write_bytes(data)
            elif name == "model.safetensors":
                paths[name].write_bytes(mutate_bytes(data, dice, len(data) - 2000))
            else:
                text = mutate_text(data.decode(), dice)
                paths[name].write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(*EXPECTED):
            for _ in convert_model(paths):
                pass


CHAT = """{{- if .System }}<s>{{ .System }}{{ end }}
{{- range $i, $m := .Messages }}{{ if eq .Role "user" }}[{{ .Content }}]
{{- else if .ToolCalls }}{{ range .ToolCalls }}{{ .Function.Name }} {{ json .Function.Arguments }}{{ end }}
{{- else }}{{ printf "%-5q" .Content }}{{ slice .Content 0 1 | len }}{{ end }}{{ end }}
{{- define "x" }}{{ . }}{{ end }}{{ template "x" (index .Messages 0) }}{{ with .Tools }}{{ . }}{{ end }}"""


def test_go_templates() -> None:
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    for dice in dices("go", 0.2):
        text = mutate_text(CHAT, dice).encode("utf-8", "replace").decode()
        with contextlib.suppress(RequestError):
            GoTemplate(text).render(messages, None, None)


def test_modelfiles() -> None:
    text = 'FROM x\nPARAMETER stop "a b"\nTEMPLATE """{{ .Prompt }}\n"""\nSYSTEM s\n# c\nMESSAGE user hi\n'
    text += 'LICENSE """l"""\n'
    for dice in dices("modelfile", 0.05):
        with contextlib.suppress(RequestError):
            parse_modelfile(mutate_text(text, dice))


FEW: dict[str, Any] = {"options": {"num_predict": 2}, "stream": False}
TURN = [{"role": "user", "content": "Hi"}]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {"prompt": "Hi", "raw": True, "logprobs": True, "keep_alive": "5m", **FEW}),
    ("/api/chat", {"messages": TURN, "think": False, "format": "json", **FEW}),
    ("/api/embed", {"input": ["a", "b"], "truncate": True, "dimensions": 4}),
    ("/api/show", {"verbose": False, "options": {}}),
    ("/api/copy", {"source": "tiny", "destination": "b/c:d"}),
    (
        "/api/create",
        {"model": "made", "from": "tiny", "system": "s", "template": "{{ .Prompt }}", "stream": False},
    ),
    ("/api/pull", {"model": "127.0.0.1:1/a/b:c", "insecure": True, "stream": False}),
    ("/v1/chat/completions", {"messages": TURN, "max_tokens": 2, "temperature": 0, "n": 1}),
    ("/v1/completions", {"prompt": ["a"], "max_tokens": 2, "logprobs": 1}),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
    (
        "/v1/messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 2},
    ),
]


def test_request_bodies(tmp_path: Path) -> None:
    """Every answer is JSON, none is an internal error, and the server goes on."""
    from ollamapy.engine.engine import Engine

    server = RunningServer(tmp_path, Engine, context_length=64)
    try:
        add_gguf(server.store, MODELS / "tiny-llama.gguf", "tiny")
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for dice in dices("bodies", 0.1):
                path, body = dice.choice(BODIES)
                text = mutate_text(json.dumps({"model": "tiny", **body}), dice).encode(
                    "utf-8", "surrogatepass"
                )
                response = client.post(path, content=text, headers={"Content-Type": "application/json"})
                for line in response.text.split("\n"):
                    if line and not line.startswith(("data: [DONE]", "event: ", ":")):
                        json.loads(line.removeprefix("data: "))
                assert "internal error" not in response.text, text
                if path == "/api/show" or dice.random() < 0.02:
                    assert client.get("/api/version").status_code == 200
            good = client.post("/api/generate", json={"model": "tiny", **BODIES[0][1]})
            assert good.status_code == 200
    finally:
        server.close()
