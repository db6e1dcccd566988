"""The graph compiler and the device thread: what a compiled program computes, against NumPy, and that a row's
bits never depend on its company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TinyWeights, attention, gelu, rms, rope, silu

from ollamapy import _core
from ollamapy._core import (
    PAGE_TOKENS,
    Device,
    GGUFFile,
    Graph,
    KVCache,
    Program,
    Runner,
    SamplingParams,
    Sequence,
    Weights,
)

VOCAB, DIM, HEADS, KV_HEADS, HEAD_DIM, FF, LAYERS, EPS = 96, 64, 4, 2, 16, 128, 3, 1e-5
WINDOW = 8


def write_model(path: Path, kind: str) -> tuple[str, dict[str, np.ndarray[Any, Any]]]:
    w = TinyWeights(path, seed=7)
    w.add("embd", VOCAB, DIM, scale=1.0, kind=kind)
    for i in range(LAYERS):
        w.add(f"{i}.norm", DIM, scale=0.1, around=1.0)
        w.add(f"{i}.q", HEADS * HEAD_DIM, DIM, kind=kind)
        w.add(f"{i}.q.bias", HEADS * HEAD_DIM)
        w.add(f"{i}.k", KV_HEADS * HEAD_DIM, DIM, kind=kind)
        w.add(f"{i}.v", KV_HEADS * HEAD_DIM, DIM, kind="F32")  # another type in the same dispatch
        w.add(f"{i}.qn", HEAD_DIM, scale=0.1, around=1.0)
        w.add(f"{i}.kn", HEAD_DIM, scale=0.1, around=1.0)
        w.add(f"{i}.o", DIM, HEADS * HEAD_DIM, kind=kind)
        w.add(f"{i}.post", DIM, scale=0.1, around=1.0)
        w.add(f"{i}.ffn", DIM, scale=0.1, around=1.0)
        w.add(f"{i}.gate", FF, DIM, kind=kind)
        w.add(f"{i}.up", FF, DIM, kind=kind)
        w.add(f"{i}.down", DIM, FF, kind=kind)
    w.add("norm", DIM, scale=0.1, around=1.0)
    w.add("head", VOCAB, DIM, kind=kind)
    return w.close(), w.values


def layer_shape(i: int) -> dict[str, Any]:
    """Layers differ on purpose: pairing, window, QK-norm, sandwich norm, activation."""
    return {
        "pairing": ["interleaved", "halves", "halves"][i],
        "base": [10000.0, 500.0, 10000.0][i],
        "window": [0, WINDOW, 0][i],
        "qk_norm": i > 0,
        "sandwich": i == 1,
        "geglu": i == 2,
        "cap": [0.0, 0.0, 5.0][i],
    }


def build(weights: Weights, max_rows: int = 128, max_outputs: int = 64, kv_type: str = "f16") -> Program:
    g = Graph(weights)
    h = g.scale(g.embed("embd"), 0.5)
    for i in range(LAYERS):
        s = layer_shape(i)
        x = g.rms_norm(h, f"{i}.norm", EPS)
        q, k, v = g.linear(x, f"{i}.q", f"{i}.q.bias"), g.linear(x, f"{i}.k"), g.linear(x, f"{i}.v")
        if s["qk_norm"]:
            q, k = g.rms_norm(q, f"{i}.qn", EPS, HEAD_DIM), g.rms_norm(k, f"{i}.kn", EPS, HEAD_DIM)
        q, k = g.rope(q, HEAD_DIM, s["base"], s["pairing"]), g.rope(k, HEAD_DIM, s["base"], s["pairing"])
        a = g.linear(g.attention(q, k, v, HEAD_DIM, 0.25, window=s["window"], softcap=s["cap"]), f"{i}.o")
        if s["sandwich"]:
            a = g.rms_norm(a, f"{i}.post", EPS)
        h = h + a
        x = g.rms_norm(h, f"{i}.ffn", EPS)
        glu = g.geglu if s["geglu"] else g.swiglu
        h = h + g.linear(glu(g.linear(x, f"{i}.gate"), g.linear(x, f"{i}.up")), f"{i}.down")
    h = g.rms_norm(g.select_logit_rows(h), "norm", EPS)
    return g.compile(g.softcap(g.linear(h, "head"), 30.0), max_rows, max_outputs, kv_type)


def reference(w: dict[str, Any], tokens: list[int]) -> np.ndarray[Any, Any]:
    """Logits of every position, float64."""
    rows, positions = len(tokens), np.arange(len(tokens))
    h = w["embd"][tokens] * 0.5
    for i in range(LAYERS):
        s = layer_shape(i)
        x = rms(h, w[f"{i}.norm"], EPS)
        q = (x @ w[f"{i}.q"].T + w[f"{i}.q.bias"]).reshape(rows, HEADS, HEAD_DIM)
        k = (x @ w[f"{i}.k"].T).reshape(rows, KV_HEADS, HEAD_DIM)
        v = (x @ w[f"{i}.v"].T).reshape(rows, KV_HEADS, HEAD_DIM)
        if s["qk_norm"]:
            q, k = rms(q, w[f"{i}.qn"], EPS), rms(k, w[f"{i}.kn"], EPS)
        q, k = rope(q, positions, s["base"], s["pairing"]), rope(k, positions, s["base"], s["pairing"])
        a = attention(q, k, v, 0.25, s["window"], cap=s["cap"]) @ w[f"{i}.o"].T
        if s["sandwich"]:
            a = rms(a, w[f"{i}.post"], EPS)
        h = h + a
        x = rms(h, w[f"{i}.ffn"], EPS)
        act = gelu if s["geglu"] else silu
        h = h + (act(x @ w[f"{i}.gate"].T) * (x @ w[f"{i}.up"].T)) @ w[f"{i}.down"].T
    logits = rms(h, w["norm"], EPS) @ w["head"].T
    return 30.0 * np.tanh(logits / 30.0)


@pytest.fixture(scope="module", params=["F32", "Q8_0"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], str]:
    path, values = write_model(tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf", request.param)
    return path, values, request.param


class Rig:
    """One program on one device with its cache; pages are dealt out in an order that looks like use."""

    def __init__(self, path: str, threads: int = 2, isa: str = "", max_rows: int = 128) -> None:
        self.device = Device(threads, isa)
        self.program = build(Weights(GGUFFile(path), self.device), max_rows)
        self.cache = KVCache(self.program, [64] * len(self.program.groups))
        self.runner = Runner(self.device)
        self.free = list(np.random.default_rng(3).permutation(64))

    def sequence(self, tokens: list[int], sampling: SamplingParams | None = None, room: int = 0) -> Sequence:
        sequence = Sequence(tokens, sampling)
        for index in range(-(-(len(tokens) + room) // PAGE_TOKENS)):
            page = int(self.free.pop())
            for group in range(len(self.program.groups)):
                sequence.set_page(group, index, page)
        return sequence

    def logits(self, items: list[tuple[Sequence, int, int, int]]) -> np.ndarray[Any, Any]:
        self.runner.submit(self.program, self.cache, items, want_logits=True)
        (result,) = self.runner.wait()
        assert result.error is None
        assert result.item_errors == []
        assert result.output is not None
        return result.output


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, VOCAB, length)]


def test_logits_match_numpy(model: tuple[str, dict[str, Any], str]) -> None:
    path, values, kind = model
    rig = Rig(path)
    tokens = prompt(75)
    got = rig.logits([(rig.sequence(tokens), 0, 75, 64)])
    want = reference(values, tokens)[-64:]
    # Q8_0: activations in 8 bits, through three layers.
    assert np.abs(got - want).max() < (0.005 if kind == "F32" else 1.5)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > (0.999999 if kind == "F32" else 0.999)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2])
def test_row_is_the_same_in_any_company(
    model: tuple[str, dict[str, Any], str], isa: str, threads: int
) -> None:
    path, _, _ = model
    alone = Rig(path, 1)
    prompts = {n: prompt(n, n) for n in (1, 5, 31, 32, 33, 64, 70)}
    want = {n: alone.logits([(alone.sequence(t), 0, n, 1)])[0] for n, t in prompts.items()}

    rig = Rig(path, threads, isa)
    # All at once, in chunks of their own sizes.
    sequences = {n: rig.sequence(t) for n, t in prompts.items()}
    done = dict.fromkeys(prompts, 0)
    chunk = {1: 1, 5: 2, 31: 7, 32: 32, 33: 13, 64: 3, 70: 40}
    while any(done[n] < n for n in prompts):
        items, ending = [], []
        for n in prompts:
            count = min(chunk[n], n - done[n])
            if count:
                items.append((sequences[n], done[n], count, int(done[n] + count == n)))
                done[n] += count
                if done[n] == n:
                    ending.append(n)
        got = rig.logits(items)
        for n, row in zip(ending, got, strict=True):
            # Bits, across threads and instruction sets too.
            assert np.array_equal(row.view(np.uint32), want[n].view(np.uint32)), n


def test_sampled_tokens_feed_the_next_step(model: tuple[str, dict[str, Any], str]) -> None:
    path, _, _ = model
    rig = Rig(path)
    greedy = SamplingParams(temperature=0.0, logprobs=2)
    tokens = prompt(20)
    sequence = rig.sequence(tokens, greedy, room=16)
    rig.runner.submit(rig.program, rig.cache, [(sequence, 0, 20, 1)])
    for position in range(20, 30):  # planned before any of their tokens is known
        rig.runner.submit(rig.program, rig.cache, [(sequence, position, 1, 1)])
    results = rig.runner.wait()
    assert [r.error for r in results] == [None] * 11
    assert [r.step for r in results] == list(range(results[0].step, results[0].step + 11))
    generated = [r.samples[0].token for r in results]
    full = tokens + generated
    again = rig.logits([(rig.sequence(full), 0, len(full), len(full))])
    for i, result in enumerate(results):
        row = again[19 + i].astype(np.float64)
        sample = result.samples[0]
        assert sample.token == int(row.argmax())
        logprobs = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert sample.logprob == pytest.approx(logprobs[sample.token], abs=1e-4)
        assert [t for t, _ in sample.top] == list(np.argsort(-logprobs, kind="stable")[:2])


def test_window_pages_may_be_dropped(model: tuple[str, dict[str, Any], str]) -> None:
    path, _, _ = model
    rig = Rig(path)
    windows = [g.window for g in rig.program.groups]
    assert sorted(windows) == [0, WINDOW]
    tokens = prompt(80)
    want = rig.logits([(rig.sequence(tokens), 0, 80, 1)])[0]
    sequence = rig.sequence(tokens)
    rig.logits([(sequence, 0, 79, 1)])
    for index in range((79 + 1 - WINDOW) // PAGE_TOKENS):
        sequence.set_page(windows.index(WINDOW), index, -1)
    got = rig.logits([(sequence, 79, 1, 1)])[0]
    assert np.array_equal(got, want)


def test_one_bad_item_leaves_the_others_alone(model: tuple[str, dict[str, Any], str]) -> None:
    path, _, _ = model
    rig = Rig(path)
    greedy = SamplingParams(temperature=0.0)
    good, bad = rig.sequence(prompt(9), greedy), rig.sequence([1, 2, VOCAB], greedy)
    rig.runner.submit(rig.program, rig.cache, [(bad, 0, 3, 1), (good, 0, 9, 1)])
    (result,) = rig.runner.wait()
    assert result.error is None
    assert [item for item, _ in result.item_errors] == [0]
    assert f"token {VOCAB} is not in the vocabulary of {VOCAB}" in result.item_errors[0][1]
    assert [s.item for s in result.samples] == [1]
    alone = rig.sequence(prompt(9), greedy)
    rig.runner.submit(rig.program, rig.cache, [(alone, 0, 9, 1)])
    assert rig.runner.wait()[0].samples[0].token == result.samples[0].token


def test_steps_that_do_not_fit_are_refused(model: tuple[str, dict[str, Any], str]) -> None:
    path, _, _ = model
    rig = Rig(path, max_rows=16)
    greedy = SamplingParams(temperature=0.0)
    sequence = rig.sequence(prompt(40), greedy)

    def refused(text: str, *items: tuple[Sequence, int, int, int]) -> None:
        with pytest.raises(ValueError, match=text):
            rig.runner.submit(rig.program, rig.cache, list(items))

    refused("17 rows, the program takes 16", (sequence, 0, 17, 1))
    refused("without items")
    refused("0 tokens from position 0", (sequence, 0, 0, 0))
    refused("tokens from position -1", (sequence, -1, 1, 0))
    refused("only one row", (sequence, 0, 4, 2))
    refused("no page for positions from 64", (sequence, 60, 8, 0))
    refused("no sampling parameters", (rig.sequence(prompt(4)), 0, 4, 1))
    stray = Sequence(prompt(4), greedy)
    stray.set_page(0, 0, 64)
    stray.set_page(1, 0, 0)
    refused("no page for positions from 0", (stray, 0, 4, 1))
    with pytest.raises(ValueError, match="page table index"):
        stray.set_page(0, -1, 0)
    # And the runner still works.
    assert rig.logits([(sequence, 0, 16, 1)]).shape == (1, VOCAB)


def test_a_kv_type_makes_pages_smaller_and_nothing_else_runs_on_them(
    model: tuple[str, dict[str, Any], str],
) -> None:
    path, _, _ = model
    weights = Weights(GGUFFile(path), Device(1))
    # K and V of a token: 2 heads of 16 values in f16, or as one padded block of 32 with its scale.
    token = {"f16": 2 * 2 * 16 * 2, "q8_0": 2 * 2 * (32 + 2), "q4_0": 2 * 2 * (16 + 2)}
    programs = {kind: build(weights, kv_type=kind) for kind in token}
    for kind, program in programs.items():
        layers = [group.layers for group in program.groups]
        assert [g.page_bytes for g in program.groups] == [n * PAGE_TOKENS * token[kind] for n in layers]
        assert KVCache(program, [3, 5]).nbytes == sum(
            n * g.page_bytes for n, g in zip([3, 5], program.groups, strict=True)
        )
    rig = Rig(path)
    sequence = rig.sequence(prompt(4), SamplingParams(temperature=0.0))
    for kind in ("q8_0", "q4_0"):
        with pytest.raises(ValueError, match="another program"):
            rig.runner.submit(rig.program, KVCache(programs[kind], [64, 64]), [(sequence, 0, 4, 1)])
    with pytest.raises(ValueError, match='not "f32"'):
        build(weights, kv_type="f32")


def test_pages_that_are_given_back_can_be_used_again(model: tuple[str, dict[str, Any], str]) -> None:
    rig = Rig(model[0])
    groups = range(len(rig.program.groups))
    sequence = rig.sequence(prompt(80))
    want = rig.logits([(sequence, 0, 80, 1)])
    for group in groups:
        rig.cache.give_back(group, [int(page) for page in rig.free])
    assert np.array_equal(rig.logits([(sequence, 79, 1, 1)]), want)  # its own pages are as they were
    for group in groups:
        rig.cache.give_back(group, [5, *range(64)])
    assert not np.array_equal(rig.logits([(sequence, 79, 1, 1)]), want)  # zeros
    assert np.array_equal(rig.logits([(sequence, 0, 80, 1)]), want)
    for group, pages in ((-1, [0]), (len(groups), [0]), (0, [64]), (0, [-1])):
        with pytest.raises(ValueError):
            rig.cache.give_back(group, pages)


def test_fusion(model: tuple[str, dict[str, Any], str]) -> None:
    path, _, kind = model
    text = build(Weights(GGUFFile(path), Device(1))).describe()
    lines = text.splitlines()
    matmuls = [line for line in lines if " matmul" in line]
    # Per layer: q, k, v together; o; gate and up together; down. And the head.
    assert len(matmuls) == 4 * LAYERS + 1
    assert all(
        f"{i}.q:{kind}" in line and f"{i}.k:" in line and f"{i}.v:F32" in line
        for i, line in enumerate(matmuls[0::4][:3])
    )
    assert any("0.o" in line and f"0.o:{kind}+b" in line for line in lines), "a residual add is an epilogue"
    assert any("rms_norm add" in line for line in lines), "a sandwich norm and its residual add are one chain"
    if kind == "Q8_0":
        assert sum("swiglu" in line and "->q8" in line and "->b" not in line for line in lines) == 2


def test_graph_errors_name_the_tensor(model: tuple[str, dict[str, Any], str]) -> None:
    path, _, _ = model
    g = Graph(Weights(GGUFFile(path), Device(1)))
    x = g.embed("embd")
    with pytest.raises(_core.GGUFError, match=r"tensor 'nowhere' is missing"):
        g.linear(x, "nowhere")
    with pytest.raises(_core.GGUFError, match=r"tensor '0.down' has shape \[128, 64\]"):
        g.linear(x, "0.down")
    with pytest.raises(_core.GGUFError, match=r"tensor '0.qn' has shape \[16\], expected \[64\]"):
        g.rms_norm(x, "0.qn", EPS)
    with pytest.raises(ValueError, match="head_dim"):
        g.rope(x, 7, 10000.0, "halves")
    with pytest.raises(ValueError, match="widths"):
        x + g.linear(x, "0.k")
    with pytest.raises(ValueError, match="pairing"):
        g.rope(x, 16, 10000.0, "sideways")
    other = Graph(Weights(GGUFFile(path), Device(1)))
    with pytest.raises(ValueError, match="another graph"):
        other.linear(x, "0.q")
    with pytest.raises(ValueError, match="select_logit_rows"):
        g.compile(x)


def test_pooled_bidirectional(model: tuple[str, dict[str, Any], str]) -> None:
    path, w, kind = model
    device = Device(2)
    g = Graph(Weights(GGUFFile(path), device))
    h = g.embed("embd") + g.embed("embd", "position") + g.embed("embd", "zero")
    x = h
    q, k, v = g.linear(x, "0.q"), g.linear(x, "0.k"), g.linear(x, "0.v")
    h = g.rms_norm(
        h + g.linear(g.attention(q, k, v, HEAD_DIM, 0.25, bidirectional=True), "0.o"), "0.norm", EPS
    )
    programs = {kind: g.compile(g.pool(h, kind)) for kind in ("mean", "cls", "last")}
    runner = Runner(device)
    texts = [prompt(n, n) for n in (3, 40, 33)]
    for pool, program in programs.items():
        cache = KVCache(program, [8])
        items, page = [], 0
        for tokens in texts:
            sequence = Sequence(tokens)
            for index in range(-(-len(tokens) // PAGE_TOKENS)):
                sequence.set_page(0, index, page)
                page += 1
            items.append((sequence, 0, len(tokens), 1))
        runner.submit(program, cache, items)
        (result,) = runner.wait()
        assert result.output is not None
        for tokens, got in zip(texts, result.output, strict=True):
            n = len(tokens)
            e = w["embd"][tokens] + w["embd"][:n] + w["embd"][0]
            heads = [(e @ w[f"0.{name}"].T).reshape(n, -1, HEAD_DIM) for name in "qkv"]
            rows = rms(e + attention(*heads, 0.25, causal=False) @ w["0.o"].T, w["0.norm"], EPS)
            row = {"mean": rows.mean(0), "cls": rows[0], "last": rows[-1]}[pool]
            assert got @ row / np.linalg.norm(row) > (0.99999 if kind == "F32" else 0.999)
            assert np.linalg.norm(got) == pytest.approx(1, abs=1e-6)
