"""Answers under a grammar: they are valid, whoever they are computed beside and however late their masks come."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from ollamapy._core import GrammarState, SamplingParams, Sequence, sample
from ollamapy.engine import Engine, constrained
from ollamapy.engine.bench import Bench
from ollamapy.engine.constrained_grammar import (
    checked,
    json_grammar,
    lark_grammar,
    regex_grammar,
    schema_grammar,
)
from ollamapy.engine.constrained_library import TokenTrie
from ollamapy.engine.constrained_numbers import NumberLimit, digit_tokens
from ollamapy.engine.constrained_schema import _KEPT, _UNENFORCED, SchemaError, prepare
from ollamapy.engine.constrained_thought import ThoughtGate, ThoughtTokens
from ollamapy.engine.model import Model
from ollamapy.types import Constraint, GenerationRequest, RequestError, SamplingOptions
from tests.clients.scripted_model import build
from tests.engine.schemas import SchemaMaker

MODELS = Path(__file__).parents[1] / "golden" / "models"
SCHEMAS = 500
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(kv_memory=256 << 20)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def flat(engine: Engine, tmp_path: Path) -> Model:
    """A model of bytes; at a high temperature all tokens are equally likely to it."""
    return await engine.load(await engine.prepare(str(build(tmp_path / "flat.gguf", {"<|go|>": "text"}))))


GRAMMAR_CALL = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_size_t
)


def core_grammar(validate: Any, fill: Any, tokens: int) -> GrammarState:
    """A grammar of tokens that answers the core as two GRAMMAR_CALLs do, as llguidance's functions else."""
    functions = (validate, fill)
    addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
    return GrammarState(functions, 1, *addresses, tokens)


def ask(model: Model, constraint: Constraint | None, seed: int = 1, **more: Any) -> GenerationRequest:
    options: dict[str, Any] = {"num_predict": 1024, "num_ctx": 4096} | more
    hot = SamplingOptions(temperature=1e6, top_k=0, top_p=1.0, seed=seed)
    return GenerationRequest(model.tokenizer.encode("<|go|>"), sampling=hot, constraint=constraint, **options)


async def answer(model: Model, request: GenerationRequest) -> tuple[str, str]:
    text, reason = "", ""
    async for delta in model.generate(request):
        text += delta.text
        reason = delta.done_reason or reason
    return text, reason


async def judged(model: Model, seeds: range, sampling: SamplingOptions | None = None) -> float:
    """The share of the answers under seeded schemas that end; those that do are valid."""
    slots = asyncio.Semaphore(32)

    async def run(seed: int) -> bool:
        schema = SchemaMaker(seed).make()
        jsonschema.Draft202012Validator.check_schema(schema)
        request = ask(model, Constraint(schema_grammar(schema, True)), seed)
        request.sampling = sampling or request.sampling
        async with slots:
            text, reason = await answer(model, request)
        if reason == "stop":
            try:
                jsonschema.Draft202012Validator(schema).validate(json.loads(text))
            except (ValueError, jsonschema.ValidationError) as error:
                pytest.fail(f"seed {seed}: {text!r} under {json.dumps(schema)}: {error}")
        return reason == "stop"

    ended = await asyncio.gather(*(run(seed) for seed in seeds))
    return sum(ended) / len(ended)


async def test_every_answer_that_stops_is_valid(flat: Model) -> None:
    assert await judged(flat, range(SCHEMAS)) >= 0.98


async def test_a_real_model_ends_too(engine: Engine, smollm2_path: Path) -> None:
    """It says what is likely, again and again if it may: 89 % of its answers ended before numbers did."""
    model = await engine.load(await engine.prepare(str(smollm2_path)))
    assert await judged(model, range(100), SamplingOptions(temperature=0)) >= 0.98


async def test_other_grammars(flat: Model) -> None:
    for grammar, values in (
        (regex_grammar("(a|b){3}/[0-9]"), None),
        (lark_grammar('start: "yes" | "no" " way"'), {"yes", "no way"}),
    ):
        text, reason = await answer(flat, ask(flat, Constraint(checked(grammar))))
        assert reason == "stop"
        if values is None:
            assert len(text) == 5 and set(text[:3]) <= {"a", "b"} and text[3] == "/" and text[4].isdigit()
        else:
            assert text in values
    text, reason = await answer(flat, ask(flat, Constraint(json_grammar()), 3))
    assert reason == "length" or isinstance(json.loads(text), dict)


async def test_one_row_one_result(flat: Model) -> None:
    """The same bits alone and in company, of constrained and free answers."""
    constraint = Constraint(schema_grammar(PERSON))
    alone = [await answer(flat, ask(flat, constraint, seed)) for seed in range(6)]
    free = await answer(flat, ask(flat, None, num_predict=40))
    together = await asyncio.gather(
        *(answer(flat, ask(flat, constraint, seed)) for seed in range(6)),
        answer(flat, ask(flat, None, num_predict=40)),
    )
    assert together == [*alone, free]


async def test_a_mask_that_comes_late_changes_nothing(flat: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for its answer nor for the others, who do not wait for it."""
    constraint = Constraint(schema_grammar(PERSON))
    want = [await answer(flat, ask(flat, constraint, seed)) for seed in range(3)]
    free = await answer(flat, ask(flat, None, num_predict=40))
    step = constrained.TokenMasks._step
    threads = set()

    def slow(self: constrained.TokenMasks, token: int) -> None:
        threads.add(threading.current_thread().name)
        time.sleep(0.012)
        step(self, token)
        self._slow = True

    monkeypatch.setattr(constrained.TokenMasks, "_step", slow)
    got = await asyncio.gather(
        *(answer(flat, ask(flat, constraint, seed)) for seed in range(3)),
        answer(flat, ask(flat, None, num_predict=40)),
    )
    assert got == [*want, free]
    assert any(name.startswith("grammar") for name in threads), "slow masks leave the event loop"


async def test_masks_are_computed_for_refused_tokens_only(
    engine: Engine, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy answers are what masks alone give, and next to none of their tokens needs one."""
    model = await engine.load(await engine.prepare(str(smollm2_path)))
    prompt = model.tokenizer.encode("<|im_start|>user\nWho is the king of France? Use JSON.<|im_end|>\n")
    request = GenerationRequest(
        prompt, sampling=SamplingOptions(temperature=0), constraint=Constraint(schema_grammar(PERSON))
    )
    masked: list[float] = []
    advance = constrained.TokenMasks.advance

    def watched(self: constrained.TokenMasks, token: int, seconds: float, *rest: Any) -> None:
        masked.append(seconds)
        advance(self, token, seconds, *rest)

    monkeypatch.setattr(constrained.TokenMasks, "advance", watched)
    asked = await answer(model, request)
    assert asked[1] == "stop" and 0 < sum(map(bool, masked)) < len(masked)
    masked.clear()
    monkeypatch.setattr(constrained.TokenMasks, "_more_than_grammar", True)
    assert await answer(model, request) == asked
    assert masked and not any(masked)


def test_what_is_drawn_anew_is_drawn_from_the_mask() -> None:
    """With a random number of its own: that the first draw was refused says where its number lay."""
    bench = Bench(str(MODELS / "tiny-llama.gguf"), 1, 1)
    cache = bench._cache(1, 2)

    def step(sequence: Sequence, want_logits: bool) -> Any:
        sequence.set_page(0, 0, 0)
        bench._runner.submit(bench.program, cache, [(sequence, 0, 1, 1)], want_logits)
        return bench._runner.wait()[0]

    logits = step(Sequence([1]), True).output[0]
    bias = [(token, 50 + math.log(share) - float(logits[token])) for token, share in ((5, 5), (6, 3), (7, 2))]

    @GRAMMAR_CALL
    def validate(_: Any, tokens: Any, count: int) -> int:
        return int(tokens[0] in (6, 7))

    @GRAMMAR_CALL
    def fill(_: Any, mask: Any, size: int) -> int:
        mask[0] = 1 << 6 | 1 << 7
        return 0

    drawn: Counter[int] = Counter()
    for seed in range(600):
        params = SamplingParams(temperature=1, top_k=0, top_p=1, seed=seed, logit_bias=bias)
        sequence = Sequence([1], params, grammar=core_grammar(validate, fill, len(logits)))
        sequence.ask_grammar(1)
        drawn[step(sequence, False).samples[0].token] += 1
    assert drawn.keys() == {6, 7}
    assert 0.53 < drawn[6] / 600 < 0.67, "three of five"


def test_a_grammar_for_the_core() -> None:
    with pytest.raises(ValueError, match="needs its state"):
        GrammarState(object(), 0, 1, 1, 1)
    free = Sequence([1], SamplingParams(), constrained=True)
    with pytest.raises(ValueError, match="no grammar to ask"):
        free.ask_grammar(1)
    with pytest.raises(ValueError, match="not constrained"):
        Sequence([1]).set_mask(1, np.ones(1, np.uint32))


def test_rows_of_logits_beyond_the_vocabulary_are_no_tokens_of_a_grammar() -> None:
    """Models pad their output; the grammar library takes an unknown token for an error of its own."""
    bench = Bench(str(MODELS / "tiny-llama.gguf"), 1, 1)
    asked: list[int] = []

    @GRAMMAR_CALL
    def validate(_: Any, tokens: Any, count: int) -> int:
        asked.append(tokens[0])
        return 0

    @GRAMMAR_CALL
    def fill(_: Any, mask: Any, size: int) -> int:
        assert size == (tokens + 31) // 32 * 4
        mask[0] = 1 << 2
        return 0

    cache = bench._cache(1, 2)
    for tokens in (3, 1 << 20):
        sequence = Sequence([1], SamplingParams(temperature=0), grammar=core_grammar(validate, fill, tokens))
        sequence.set_page(0, 0, 0)
        sequence.ask_grammar(1)
        bench._runner.submit(bench.program, cache, [(sequence, 0, 1, 1)])
        (result,) = bench._runner.wait()
        assert [drawn.token for drawn in result.samples] == [2]
        assert sequence.mask_seconds > 0 and len(asked) == (tokens > 3)


async def test_a_full_window_shifts_under_a_grammar(flat: Model) -> None:
    schema = {"type": "array", "items": {"type": "integer", "maximum": 9}, "minItems": 60, "maxItems": 90}
    text, reason = await answer(flat, ask(flat, Constraint(schema_grammar(schema)), num_ctx=64))
    assert reason == "stop"
    jsonschema.validate(json.loads(text), schema)


async def test_the_trie_is_built_by_the_first_who_needs_it(flat: Model) -> None:
    await answer(flat, ask(flat, None, num_predict=2))
    assert flat._grammars._trie is None
    await answer(flat, ask(flat, Constraint(schema_grammar(PERSON))))
    assert flat._grammars._trie is not None


async def test_a_large_vocabulary_does_not_hold_the_event_loop(engine: Engine, gemma3_path: Path) -> None:
    """Its trie takes a second, of which the loop misses next to nothing."""
    model = await engine.load(await engine.prepare(str(gemma3_path)))
    longest, done = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.002)
            longest = max(longest, time.monotonic() - before)

    watcher = asyncio.create_task(watch())
    started = time.monotonic()
    await model._grammars.masks(Constraint(schema_grammar(PERSON)))
    taken = time.monotonic() - started
    done.set()
    await watcher
    assert longest < taken / 3


_MANY = {f"k{i}": {"type": "string", "pattern": f"(a|b)*c{{1,50}}d{i}"} for i in range(900)}
_CIRCLE = {"a": {"anyOf": [{"$ref": "#/$defs/b"}] * 9}, "b": {"anyOf": [{"$ref": "#/$defs/a"}] * 9}}
HOSTILE: list[dict[str, Any]] = [
    {"type": "string", "pattern": "(a?){5000}a{5000}"},
    {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$", "maxLength": 50},
    {"enum": [f"x{i}" for i in range(15_000)]},
    {"type": "object", "properties": _MANY},
    {"type": "array", "minItems": 100_000, "maxItems": 200_000},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"$defs": _CIRCLE, "$ref": "#/$defs/a"},
    {"type": "string", "allOf": [{"pattern": f"a{{{i}}}.*b{{{i}}}"} for i in range(1, 20)]},
    {"type": "object", "patternProperties": {f"^(a|b)*x{{{i}}}$": {"type": "null"} for i in range(1, 80)}},
    {"type": "object", "required": [f"k{i}" for i in range(3000)]},
]


@pytest.mark.parametrize("schema", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_schemas_end_soon(flat: Model, schema: dict[str, Any]) -> None:
    """In an answer or a refusal; and the event loop goes on meanwhile."""
    longest, running = 0.0, True

    async def watch() -> None:
        nonlocal longest
        while running:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    watcher = asyncio.create_task(watch())
    started = time.monotonic()
    try:
        grammar = await asyncio.to_thread(lambda: checked(schema_grammar(schema)))
        await asyncio.wait_for(answer(flat, ask(flat, Constraint(grammar), num_predict=30)), 30)
    except RequestError:
        pass
    finally:
        running = False
        await watcher
    assert time.monotonic() - started < 30
    assert longest < 2


# ---- Schemas


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"not": {"const": 1}}}}, "#/properties/a/not"),
        ({"items": {"if": {}, "then": {}}}, "#/items/if"),
        ({"properties": {"a/b": {"uniqueItems": True}}}, "#/properties/a~1b/uniqueItems"),
        ({"anyOf": [{"type": "string", "pattern": "(?=a)"}]}, "#/anyOf/0/pattern"),
        ({"type": "string", "format": "regex"}, "#/format"),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "#/minProperties"),
        ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired"),
        ({"type": "integer", "maximum": 1 << 64}, "#/maximum"),
        ({"items": {"type": "number", "exclusiveMinimum": -1e300}}, "#/items/exclusiveMinimum"),
        ({"type": "number", "minimum": 1e-300}, "#/minimum"),
        ({"type": "number", "multipleOf": 1 / 3}, "#/multipleOf"),
        ({"type": "integer", "multipleOf": 123456789123}, "#/multipleOf"),
    ],
)
def test_what_cannot_be_enforced_is_refused_or_named(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(SchemaError, match=path.replace("$", r"\$")):
        prepare(schema, strict=True)
    _, dropped = prepare(schema, strict=False)
    assert path in dropped


def test_the_log_names_what_is_dropped_and_stays_short(caplog: pytest.LogCaptureFixture) -> None:
    schema_grammar({"type": "object", "properties": {"a": {"uniqueItems": True, "not": {}}}})
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "not enforced in a JSON schema: #/properties/a/uniqueItems; #/properties/a/not"
    )
    caplog.clear()
    schema_grammar({"properties": {f"{i}" + "x" * 300: {"not": {}} for i in range(500)}})
    assert len(caplog.text) < 6000 and "and 480 more" in caplog.text
    caplog.clear()
    schema_grammar(PERSON)
    assert not caplog.records


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems"),
        ({"properties": {"a": {"minimum": 3, "maximum": 2}}}, "#/properties/a"),
        ({"$ref": "#/$defs/none"}, "cannot resolve"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "cannot resolve"),
        ({"$ref": "other.json#/a"}, "cannot resolve"),
        ({"type": "strange"}, "unrecognized type"),
        ({"type": {}}, "unrecognized type"),
        ({"type": ["null", []]}, "unrecognized type"),
        ({"type": "string", "format": []}, "#/format"),
        ({"type": "number", "multipleOf": 0}, "#/multipleOf"),
        ({"enum": []}, "#/enum"),
        ({"required": "a"}, "#/required"),
        ({"maxLength": -1}, "#/maxLength"),
        ({"items": 3}, "#/items"),
    ],
)
def test_what_is_wrong_is_refused_always(schema: dict[str, Any], words: str) -> None:
    for strict in (False, True):
        with pytest.raises(SchemaError, match=words.replace("$", r"\$")):
            prepare(schema, strict)


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 10**400, "", "x", "#", "#/", "#/a/0", "(", "\x00"),
    *([], {}, [None], [[]], [1, 1], ["a", "a"], [{}], [True], [{"$ref": "#"}]),
    *({"a": None}, {"a": []}, {"a": {}}, {"": {}}, {"a": {"$ref": "#"}}, {"\x00": True}),
]


@pytest.mark.parametrize("keyword", sorted(_KEPT | _UNENFORCED | {"additionalItems", "$id", "x-guidance"}))
def test_any_value_of_any_keyword_is_taken_or_refused(keyword: str) -> None:
    for value in ODD:
        for kind in ("object", "array", "string", "integer"):
            with contextlib.suppress(RequestError):  # anything else is a failure of ours
                checked(schema_grammar({"type": kind, keyword: value}, strict=kind == "array"))


def test_depth_and_size_are_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}
    for schema in (deep, {"enum": list(range(30_000))}):
        with pytest.raises(SchemaError):
            prepare(schema, strict=False)


def test_annotations_are_ignored_and_objects_closed() -> None:
    schema = {
        "title": "t",
        "default": 1,
        "x-any": 2,
        "examples": [1],
        "type": "object",
        "properties": {"a": {}},
    }
    prepared, dropped = prepare(schema, strict=True)
    assert (prepared, dropped) == (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        [],
    )


def accepted(model: Model, schema: dict[str, Any], text: str) -> bool:
    matcher = TokenTrie(model.tokenizer).matcher(schema_grammar(schema))
    return matcher.consume(model.tokenizer.encode(text)) and matcher.consume([min(model.tokenizer.eog)])


@pytest.mark.parametrize(
    ("schema", "right", "endless"),
    [
        ({"type": "integer", "multipleOf": 6}, ["-6", "123456"], "1" + "0" * 30),
        ({"multipleOf": 7, "minimum": 10**18}, [str(10**18 - 10**18 % 7 + 7)], "7" * 30),
        ({"type": "number", "multipleOf": 0.5}, ["0.5", "-7"], "5" * 30),
        ({"type": "string", "format": "email"}, ['"ada@example.org"'], '"' + "a" * 300 + '@b.c"'),
        ({"type": "string", "format": "time"}, ['"10:00:00.123+01:00"'], '"10:00:00.' + "1" * 50 + 'Z"'),
    ],
)
def test_what_could_only_go_on_is_bounded(
    flat: Model, schema: dict[str, Any], right: list[str], endless: str
) -> None:
    for text in right:
        jsonschema.validate(json.loads(text), schema)
        assert accepted(flat, schema, text)
    assert not accepted(flat, schema, endless)


async def test_a_number_ends(engine: Engine, tmp_path: Path) -> None:
    """Of a model that would rather go on; the grammar of a client's own is not ours to cut."""
    path = build(tmp_path / "digits.gguf", {"<|go|>": "3" * 90})
    model = await engine.load(await engine.prepare(str(path)))

    async def said(grammar: str) -> tuple[str, str]:
        request = ask(model, Constraint(grammar), num_predict=60)
        request.sampling.temperature = 0
        return await answer(model, request)

    text, reason = await said(schema_grammar({"type": "number"}))
    assert reason == "stop" and text.startswith("3" * 20) and len(text) < 40
    text, _ = await said(regex_grammar("[0-9]+"))
    assert len(text) == 90


def test_digits_are_counted_outside_of_strings_only() -> None:
    pieces = [b"", b"1", b"23,", b",", b" 4", b'"', b"a"]
    for text, cut in (
        (b"1" * 20, True),
        (b"1" * 19, False),
        (b"0." + b"1" * 19, False),
        (b"0." + b"1" * 20, True),
        (b'"' + b"1" * 30, False),
        (b'"\\"' + b"1" * 30, False),
        (b'"\\\\"' + b"1" * 30, True),
        (b'"a", ' + b"1" * 30, True),
    ):
        for size in (1, 3, 100):
            limit = NumberLimit(digit_tokens(pieces))
            for at in range(0, len(text), size):
                limit.push(text[at : at + size])
            mask = np.array([0b1111111], np.uint32)
            limit.apply(mask)
            assert mask[0] == (0b1111001 if cut else 0b1111111)
            only = np.array([0b0000110], np.uint32)
            limit.apply(only)
            assert only[0] == 0b0000110, "where a number cannot end it goes on"


# ---- Thoughts


def test_a_thought_is_free_and_what_follows_is_not() -> None:
    pieces = [
        b"",
        b"<thi",
        b"nk>",
        b"nk> so",
        b"{",
        b"</",
        b"think",
        b">",
        b">\n\n",
        b">{",
        b">no",
        b"a",
        b"</think>",
    ]
    tokens = ThoughtTokens(pieces, "<think>", "</think>")
    end = 0

    def allowed(gate: ThoughtGate, grammar: set[int]) -> set[int]:
        mask = np.zeros(1, np.uint32)
        if gate.needs_grammar:
            for token in grammar:
                mask[0] |= np.uint32(1 << token)
        if not gate.passed:
            gate.open(mask, [end])
        return {token for token in range(len(pieces)) if mask[0] >> token & 1}

    def walk(*path: int) -> tuple[ThoughtGate, bytes | None]:
        gate = ThoughtGate(tokens, False, lambda text: text == b"{")
        rest: bytes | None = None
        for token in path:
            rest = gate.push(token)
        return gate, rest

    everything = set(range(len(pieces)))
    assert allowed(walk()[0], {4}) == {1, 4}
    assert walk(4)[1] == b"{" and walk(4)[0].passed, "no thought at all"
    assert allowed(walk(1)[0], {4}) == {2, 3}
    assert allowed(walk(1, 3)[0], {4}) == everything - {end}
    assert allowed(walk(1, 2, 11, 5, 6)[0], {4}) == everything - {end, 10}
    assert walk(1, 2, 5, 6, 8)[1] == b"" and walk(1, 2, 5, 6, 9)[1] == b"{"
    assert walk(1, 2, 12)[0].passed


# ---- The sampler


def test_a_mask_forbids_and_changes_neither_draws_nor_logprobs() -> None:
    rng = np.random.default_rng(3)
    row = rng.standard_normal(1000).astype(np.float32)
    allowed = rng.choice(1000, 100, replace=False)
    words = np.zeros(1000 // 32 + 1, np.uint32)
    for token in allowed:
        words[token >> 5] |= np.uint32(1 << (token & 31))
    cut = np.full(1000, -np.inf, np.float32)
    cut[allowed] = row[allowed]
    for seed in range(50):
        params = SamplingParams(seed=seed, temperature=1.5, repeat_penalty=1.3, logprobs=2)
        token, logprob, top = sample(row, [int(allowed[0])], params, 5, words)
        assert token == sample(cut, [int(allowed[0])], params, 5)[0]
        assert (logprob, top) == (pytest.approx(sample_logprob(row, token)), sample(row, [], params, 5)[2])
    with pytest.raises(ValueError, match="grammar"):
        sample(row, [], SamplingParams(), 0, np.zeros(32, np.uint32))


def sample_logprob(row: np.ndarray[Any, np.dtype[np.float32]], token: int) -> float:
    shifted = row.astype(np.float64) - row.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def test_a_bias_moves_logits_before_the_draw() -> None:
    row = np.array([1.0, 2.0, 3.0], np.float32)
    for bias, want in (([], 2), ([(0, 2.5)], 0), ([(2, -100.0), (0, 0.5)], 1), ([(99, 5.0)], 2)):
        assert sample(row, [], SamplingParams(temperature=0, logit_bias=bias), 0)[0] == want
    with pytest.raises(ValueError, match="logit_bias"):
        SamplingParams(logit_bias=[(0, float("nan"))])
