"""Real models behind a real socket, asked with the client that people use."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

from tests.server.harness import RunningServer
from tests.server.test_native import wait_until

QUESTION = "Why is the sky blue?"
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 8}


def test_generate(server: RunningServer) -> None:
    client = ollama.Client(server.url)
    answer = client.generate("smollm2:135m", QUESTION, options=GREEDY)
    assert answer.response == "The sky blue is a result of the"  # as a real Ollama answers
    assert (answer.prompt_eval_count, answer.eval_count, answer.done_reason) == (15, 8, "length")
    assert answer.context is not None
    assert len(answer.context) == 15 + 8
    assert answer.total_duration is not None
    assert answer.total_duration >= answer.eval_duration > 0  # type: ignore[operator]
    parts = list(client.generate("smollm2:135m", QUESTION, options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == answer.response
    assert len(parts) == 9
    assert parts[-1].response == ""
    going_on = client.generate("smollm2:135m", "Shorter.", context=answer.context, options=GREEDY)
    assert going_on.prompt_eval_count is not None
    assert going_on.prompt_eval_count > 15 + 8


def test_chat(server: RunningServer) -> None:
    client = ollama.Client(server.url)
    messages = [{"role": "user", "content": QUESTION}]
    whole = client.chat("smollm2:135m", messages, options=GREEDY)
    assert whole.message.content == "The sky blue is a result of the"
    parts = list(client.chat("smollm2:135m", messages, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    stopped = client.chat("smollm2:135m", messages, options={**GREEDY, "stop": ["blue is"]})
    assert stopped.message.content == "The sky "
    assert stopped.done_reason == "stop"
    talk = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And you?"},
    ]
    assert client.chat("smollm2:135m", talk, options=GREEDY).prompt_eval_count == 36
    gemma = client.chat("gemma3:270m", talk, options=GREEDY)
    assert gemma.prompt_eval_count == 76  # no template: ChatML, whose marks are plain text to this model
    assert gemma.message.content


def test_logprobs(server: RunningServer) -> None:
    body = {
        "model": "smollm2:135m",
        "prompt": QUESTION,
        "options": GREEDY,
        "logprobs": True,
        "top_logprobs": 2,
    }
    value = httpx.post(f"{server.url}/api/generate", json={**body, "stream": False}, timeout=60).json()
    first = value["logprobs"][0]
    assert (first["token"], first["bytes"]) == ("The", [84, 104, 101])
    assert first["logprob"] == pytest.approx(-0.0611, abs=0.02)  # a real Ollama's, on other kernels
    assert [top["token"] for top in first["top_logprobs"]] == ["The", "Blue"]
    assert len(value["logprobs"]) == 8


def test_truncation(server: RunningServer) -> None:
    client = ollama.Client(server.url)
    long = "The quick brown fox jumps over the lazy dog. " * 120
    options = {**GREEDY, "num_ctx": 256}
    cut = client.chat("smollm2:135m", [{"role": "user", "content": long}], options=options)
    assert cut.prompt_eval_count == 130  # num_keep and the newer half, as Ollama counts them
    history = [{"role": "system", "content": "Keep me."}, {"role": "user", "content": long}]
    history += [{"role": "assistant", "content": "Ok."}, {"role": "user", "content": "Short."}]
    kept = client.chat("smollm2:135m", history, options=options)
    assert kept.prompt_eval_count == 27
    response = httpx.post(
        f"{server.url}/api/generate",
        json={"model": "smollm2:135m", "prompt": long, "truncate": False, "options": options},
        timeout=60,
    )
    assert response.status_code == 400


def test_embed(server: RunningServer) -> None:
    client = ollama.Client(server.url)
    texts = ["A cat sits on the mat.", "A kitten rests on the rug.", "Interest rates rose again."]
    answer = client.embed("all-minilm", texts)
    vectors = np.array(answer.embeddings)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    alone = np.array([client.embed("all-minilm", text).embeddings[0] for text in texts])
    np.testing.assert_array_equal(alone, vectors)  # a text's vector does not depend on its company
    older = client.embeddings("all-minilm", texts[0]).embedding
    np.testing.assert_array_equal(np.array(older), vectors[0])
    long = client.embed("all-minilm", "word " * 2000)
    assert len(long.embeddings[0]) == 384
    assert long.prompt_eval_count == 512
    from_chat = np.array(client.embed("smollm2:135m", texts[0]).embeddings[0])
    assert from_chat.shape == (576,)
    assert np.linalg.norm(from_chat) == pytest.approx(1, abs=1e-5)


def test_many_at_once_say_what_each_says_alone(server: RunningServer) -> None:
    prompts = [
        f"{word} are" for word in ("Cats", "Dogs", "Rivers", "Stars", "Books", "Songs", "Roads", "Bees")
    ]
    options = {"temperature": 0.8, "seed": 3, "num_predict": 12}

    async def ask(client: ollama.AsyncClient, prompt: str, delay: float) -> str:
        await asyncio.sleep(delay)
        stream = await client.generate("smollm2:135m", prompt, options=options, stream=True)
        return "".join([part.response async for part in stream])

    async def together() -> list[str]:
        client = ollama.AsyncClient(server.url)
        return await asyncio.gather(*[ask(client, prompt, i * 0.05) for i, prompt in enumerate(prompts)])

    alone = [ollama.Client(server.url).generate("smollm2:135m", p, options=options).response for p in prompts]
    assert asyncio.run(together()) == alone


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_work(server: RunningServer, stream: bool) -> None:
    async def leave() -> None:
        body = {
            "model": "smollm2:135m",
            "prompt": "Count.",
            "options": {"num_predict": 100_000},
            "stream": stream,
        }
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            async with client.stream("POST", "/api/generate", json={**body, "stream": True}) as response:
                async for _ in response.aiter_lines():
                    break
            task = asyncio.ensure_future(client.post("/api/generate", json=body))
            await asyncio.sleep(0.5)
            task.cancel()

    def idle() -> bool:
        return all(resident.users == 0 for resident in server.service.residency.residents())

    asyncio.run(leave())
    wait_until(idle)
    # the next answer is what it is on an idle server
    answer = ollama.Client(server.url).generate("smollm2:135m", QUESTION, options=GREEDY)
    assert answer.response == "The sky blue is a result of the"


def test_ps_show_copy_delete(server: RunningServer) -> None:
    async def scenario() -> None:
        client = ollama.AsyncClient(server.url)
        await client.generate("smollm2:135m", "Hi", options={"num_predict": 1}, keep_alive="10m")
        running = {model.model: model for model in (await client.ps()).models}
        assert running["smollm2:135m"].size is not None
        assert running["smollm2:135m"].size > 50_000_000
        shown = await client.show("smollm2:135m")
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.parameter_count"] == 134515008
        assert shown.details is not None
        assert (shown.details.parameter_size, shown.details.quantization_level) == ("134.52M", "Q4_1")
        assert shown.template is not None
        assert "<|im_start|>" in shown.template
        await client.copy("smollm2:135m", "second")
        assert "second:latest" in {model.model for model in (await client.list()).models}
        await client.create("third", from_="second", system="Answer in French.")
        answer = await client.generate("third", QUESTION, options=GREEDY)
        assert answer.prompt_eval_count == 24
        await client.delete("second")
        await client.delete("third")

    asyncio.run(scenario())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: RunningServer) -> None:
    body = json.dumps({"model": "smollm2:135m", "prompt": QUESTION, "options": GREEDY})
    done = subprocess.run(
        ["curl", "-s", f"{server.url}/api/generate", "-d", body], capture_output=True, timeout=60, check=True
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert "".join(event["response"] for event in events) == "The sky blue is a result of the"
    assert events[-1]["done"] is True


def test_unsupported_files_are_refused_by_name(server: RunningServer, tmp_path: Any) -> None:
    from tests.server.harness import add_gguf, tiny_gguf

    path = tiny_gguf(tmp_path / "odd")
    path.write_bytes(path.read_bytes().replace(b"llama", b"llamX"))
    add_gguf(server.store, path, "odd")
    with pytest.raises(ollama.ResponseError, match="llamX") as error:
        ollama.Client(server.url).generate("odd", "x")
    assert error.value.status_code == 400


def test_embeddings_are_cut_to_any_num_ctx(server: RunningServer) -> None:
    """Ollama's own suite asks for windows of a few tokens: the special ones around a text count."""

    def embed(text: str, **fields: Any) -> httpx.Response:
        body = {"model": "all-minilm", "input": text, **fields}
        return httpx.post(f"{server.url}/api/embed", json=body, timeout=60)

    want = embed("why").json()
    got = embed("why is the sky blue?", options={"num_ctx": 3}).json()
    assert (got["embeddings"], got["prompt_eval_count"]) == (want["embeddings"], 3)
    for num_ctx in (1, 2):
        refused = embed("why is the sky blue?", options={"num_ctx": num_ctx})
        assert (refused.status_code, "input after truncation exceeds maximum context" in refused.text) == (
            400,
            True,
        )
    for num_ctx in (0, -1):  # the smallest window, four tokens, and no length to cut a text to
        assert embed("why", options={"num_ctx": num_ctx}).json()["embeddings"] == want["embeddings"]
        refused = embed("why is the sky blue?", options={"num_ctx": num_ctx})
        assert (refused.status_code, refused.json()) == (
            400,
            {"error": "input exceeds maximum context length and cannot be truncated further"},
        )
    for num_ctx in (0, 3):
        refused = embed("why is the sky blue?", options={"num_ctx": num_ctx}, truncate=False)
        assert refused.json() == {"error": "the input length exceeds the context length"}


def test_a_bos_in_the_prompt_is_not_doubled(server: RunningServer) -> None:
    """Gemma's tokenizer adds one: what the text begins with is that one, and a second is the text's own."""

    def tokens(prompt: str) -> int:
        body = {"model": "gemma3:270m", "prompt": prompt, "raw": True, "stream": False}
        got = httpx.post(
            f"{server.url}/api/generate", json=body | {"options": {"num_predict": 1}}, timeout=60
        )
        count: int = got.json()["prompt_eval_count"]
        return count

    assert [tokens(text) for text in ("hi", "<bos>hi", "<bos><bos>hi")] == [2, 2, 3]


@pytest.mark.parametrize(
    ("model", "question", "bos"),
    [
        ("gemma3:270m", [818, 7217, 563], 2),  # its tokenizer adds a BOS
        ("smollm2:135m", [1, 4093, 198, 504, 6376, 314, 2, 198, 1, 520, 9531, 198], 1),  # adds none
    ],
)
def test_context_is_text_without_a_bos_of_its_own(
    server: RunningServer, model: str, question: list[int], bos: int
) -> None:
    """Tokens as a real Ollama gives them. A BOS in a context is shown and returned, and reaches the model as the one
    that its tokenizer adds, if it adds one."""

    def ask(prompt: str, **fields: Any) -> dict[str, Any]:
        body = {"model": model, "prompt": prompt, "stream": False, "options": GREEDY, **fields}
        value: dict[str, Any] = httpx.post(f"{server.url}/api/generate", json=body, timeout=60).json()
        return value

    def shown(**fields: Any) -> str:
        text: str = ask("And", _debug_render_only=True, **fields)["_debug_info"]["rendered_template"]
        return text

    adds = model == "gemma3:270m"
    first = ask("The sky is")
    context = first["context"]
    assert context[: len(question)] == question
    assert len(context) == first["prompt_eval_count"] - adds + first["eval_count"]
    plain = ask("And", context=context)
    marked = ask("And", context=[bos, *context])
    assert plain["context"][: len(context)] == context
    assert marked["context"][: len(context) + 1] == [bos, *context]
    assert marked["prompt_eval_count"] == plain["prompt_eval_count"] + (not adds)
    if adds:
        assert marked["response"] == plain["response"]
    mark = "<bos>" if adds else "<|im_start|>"
    assert shown(context=context).startswith(
        "The sky is" if adds else "<|im_start|>user\nThe sky is<|im_end|>"
    )
    assert shown(context=[bos, *context]) == mark + shown(context=context)
    assert shown(context=[bos]) == mark + shown(context=[]) == mark + shown()


def test_the_bos_of_a_renderer_is_shown_and_seen_once(server: RunningServer) -> None:
    """Counts and texts of a real Ollama, but where a context stands before the prompt: there it doubles the BOS."""

    def ask(**fields: Any) -> dict[str, Any]:
        body = {"model": "rendered", "prompt": "Hi", "stream": False, "options": {"num_predict": 1}, **fields}
        value: dict[str, Any] = httpx.post(f"{server.url}/api/generate", json=body, timeout=60).json()
        return value

    written = {
        "gemma4": ("<bos>", "<|turn>user\nHi<turn|>\n<|turn>model\n", 18),
        "lfm2": ("<|startoftext|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", 25),
    }
    for renderer, (bos, text, count) in written.items():
        body = {"model": "rendered", "from": "gemma3:270m", "renderer": renderer, "stream": False}
        assert httpx.post(f"{server.url}/api/create", json=body, timeout=60).status_code == 200
        for context, earlier, more in (
            (None, "", 0),
            ([818, 7217], "The sky", 2),
            ([2, 818, 7217], "<bos>The sky", 2),
        ):
            shown = ask(context=context, _debug_render_only=True)["_debug_info"]["rendered_template"]
            assert shown == earlier + bos + text
            answer = ask(context=context)
            assert answer["prompt_eval_count"] == count + more
            assert answer["context"][: len(context or ())] == (context or [])
    assert ask(template="<bos>{{ .Prompt }}")["prompt_eval_count"] == 2
    httpx.request("DELETE", f"{server.url}/api/delete", json={"model": "rendered"}).raise_for_status()
