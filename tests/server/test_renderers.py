"""Models with a RENDERER: which one they get, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ollamapy.store.gguf_writer import gguf_chunks
from tests.server.harness import RunningServer
from tests.server.test_native import post
from tests.server.test_store_api import upload

HELLO = [{"role": "user", "content": "Hello"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def create(server: RunningServer, model: str, **fields: Any) -> None:
    response = post(server, "/api/create", {"model": model, "from": "echo", "stream": False, **fields})
    assert response.json() == {"status": "success"}


def rendered(server: RunningServer, model: str, messages: list[dict[str, Any]], **fields: Any) -> Any:
    body = {"model": model, "messages": messages, "stream": False, "_debug_render_only": True, **fields}
    return post(server, "/api/chat", body).json()


def test_a_named_renderer_writes_the_prompt(scripted: RunningServer) -> None:
    create(scripted, "coder", renderer="qwen3-coder", system="Be kind.")
    prompt = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered(scripted, "coder", HELLO)["_debug_info"] == {"rendered_template": prompt}
    body = {"model": "coder", "prompt": "Hello", "stream": False, "_debug_render_only": True}
    value = post(scripted, "/api/generate", body).json()
    assert value["_debug_info"] == {"rendered_template": prompt}


@pytest.mark.parametrize("name", ["nonsense", "Qwen3-Coder"])
def test_an_unknown_renderer_fails_when_it_is_needed(scripted: RunningServer, name: str) -> None:
    create(scripted, "odd", renderer=name)
    body = {"model": "odd", "messages": HELLO, "stream": False}
    response = post(scripted, "/api/chat", body)
    assert response.status_code == 500
    assert response.json() == {"error": f'unknown renderer "{name}"'}


@pytest.mark.parametrize(
    ("model", "size", "large"),
    [
        ("gemma4-31b", "", True),
        ("x/gemma4-E4B", "27B", False),
        ("gemma4", "27B", True),
        ("gemma4", "", False),
    ],
)
def test_gemma4_has_two_forms(scripted: RunningServer, model: str, size: str, large: bool) -> None:
    create(scripted, model, renderer="gemma4", info={"parameter_size": size})
    prompt = rendered(scripted, model, HELLO, think=False)["_debug_info"]["rendered_template"]
    assert prompt.endswith("<channel|>") == large


def test_images_are_numbered_among_the_messages_that_fit(scripted: RunningServer) -> None:
    create(scripted, "seer", renderer="qwen3-vl-instruct")
    messages = [
        {"role": "user", "content": "x" * 5000, "images": [PIXEL]},
        {"role": "user", "content": "b [img] c", "images": [PIXEL, PIXEL]},
    ]
    debug = rendered(scripted, "seer", messages)["_debug_info"]
    assert debug["rendered_template"].startswith("<|im_start|>user\n[img-1] b [img-0] c<|im_end|>")
    assert debug["image_count"] == 2


def test_a_model_that_cannot_see_is_not_asked_to(scripted: RunningServer) -> None:
    messages = [{"role": "user", "content": "look", "images": [PIXEL]}]
    response = post(scripted, "/api/chat", {"model": "echo", "messages": messages})
    assert response.status_code == 400
    assert "does not support images" in response.json()["error"]


def test_architectures_with_a_renderer_of_their_own(scripted: RunningServer) -> None:
    data = b"".join(gguf_chunks([("general.architecture", "string", "gemma4")], []))
    digest = upload(scripted, data)
    body = {"model": "own", "files": {"model.gguf": digest}, "stream": False}
    assert post(scripted, "/api/create", body).json() == {"status": "success"}
    shown = post(scripted, "/api/show", {"model": "own"}).json()
    assert "RENDERER gemma4" in shown["modelfile"]
    assert "PARSER gemma4" in shown["modelfile"]
    assert "<turn|>" in shown["parameters"]
    body |= {"model": "other", "renderer": "gemma4-large", "parser": "gemma4-no-thinking"}
    assert post(scripted, "/api/create", body).json() == {"status": "success"}
    shown = post(scripted, "/api/show", {"model": "other"}).json()
    assert "RENDERER gemma4-large" in shown["modelfile"]
    assert "parameters" not in shown


def test_cutting_stops_before_a_prompt_that_cannot_be_written(scripted: RunningServer) -> None:
    """Qwen3.8 needs a question: the oldest messages go, but not the last question with what follows it."""
    create(scripted, "strict", renderer="qwen3.8")
    work = [{"role": "assistant", "content": "hm"}, {"role": "tool", "content": "21"}] * 3
    long = {"role": "user", "content": "x" * 5000}
    prompt = rendered(scripted, "strict", [long, {"role": "user", "content": "ask"}, *work])
    assert "user\nask<|im_end|>" in prompt["_debug_info"]["rendered_template"]
    assert rendered(scripted, "strict", [long, *work]) == {"error": "no user query found in messages"}
