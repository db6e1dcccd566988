"""What a text says does not depend on the pieces it comes in."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollamapy.prompt.parsers import FAMILIES, ParseError, Setup
from tests.prompt.parsers.recorded import CASES, TEMPLATES, TOOLS, parser_of, read, text_of

TEXTS = {
    (case.get("parser"), case.get("template"), case["tools"], repr(case.get("think")), text): case
    for case in CASES
    for text in ["".join(text_of(case, parser_of(case)))]
}
# These drop white space before a tag only if both arrive together, as Ollama does: recorded with either outcome.
BY_ARRIVAL = ("gemma4", "gemma4-no-thinking", "laguna", "poolside-v1")


def outcome(case: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    found = read(parser_of(case), [piece for piece in pieces if piece])
    if case.get("parser") in BY_ARRIVAL:
        for key in ("text", "thinking"):
            found[key] = found.get(key, "").strip()
        found["order"] = sorted({*found.get("order", [])} - {"text"}) + ["text"] * bool(found["text"])
    return found


@pytest.mark.parametrize("group", sorted({case.get("parser", "generic") for case in CASES}))
def test_every_cut(group: str) -> None:
    for case in [case for case in TEXTS.values() if case.get("parser", "generic") == group]:
        text = "".join(text_of(case, parser_of(case)))
        whole = outcome(case, [text])
        assert outcome(case, list(text)) == whole, text
        for i in range(1, len(text)):
            assert outcome(case, [text[:i], text[i:]]) == whole, (text[:i], text[i:])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=st.sampled_from(list(TEXTS.values())), data=st.data())
def test_many_cuts(case: dict[str, Any], data: st.DataObject) -> None:
    text = "".join(text_of(case, parser_of(case)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert outcome(case, pieces) == outcome(case, [text])


TAGS = sorted({tag for kind in FAMILIES.values() for tag in kind.visible})
SCRAPS = st.sampled_from(
    [*TAGS, "{", "}", "[", "]", '"', "'", "\\", ",", ":", "=", "(", ")", " ", "\n", "x", "é", "add", "ping",
     '{"a": 1}', '{"name": "add", "arguments": {"a": 1}}', "call:add{a:1}", "add(a=1)", " to=user", "to=add"]
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(FAMILIES)), scraps=st.lists(SCRAPS, max_size=14), think=st.booleans())
def test_any_text_is_read(name: str, scraps: list[str], think: bool) -> None:
    """Nonsense made of a family's own tags ends in pieces or in a ParseError, and does so however it is cut."""

    def run(pieces: list[str]) -> Any:
        found = read(FAMILIES[name](Setup(TOOLS[1], think)), [piece for piece in pieces if piece])
        if name in BY_ARRIVAL:
            return {key: "".join(str(found.get(key, "")).split()) for key in ("text", "thinking")}
        return found

    text = "".join(scraps)
    assert run([text]) == run(list(text)) == run(scraps)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_an_empty_answer(name: str) -> None:
    for think in (None, True, False):
        parser = FAMILIES[name](Setup(TOOLS[1], think))
        try:
            assert parser.push("") + parser.finish() == []
        except ParseError as error:
            pytest.fail(str(error))


HOSTILE = ["{" * 20_000, '{"' * 10_000, "[" * 20_000, "<" * 20_000, '{"a":' * 5_000, "<user>" * 5_000]


@pytest.mark.parametrize("text", [f"{tag}{text}" for text in HOSTILE for tag in ("", "<tool_call>")])
def test_hostile_texts_take_no_time(text: str) -> None:
    """A model can be asked to write anything; reading it must not hold up the others."""
    kinds = [FAMILIES[name] for name in sorted(FAMILIES)]
    templates = [{"template": i, "tools": 1, "id": ""} for i in range(len(TEMPLATES))]
    for parser in [*(kind(Setup(TOOLS[1], None)) for kind in kinds), *map(parser_of, templates)]:
        started = time.thread_time()
        with contextlib.suppress(ParseError):
            for at in range(0, len(text), 50):
                parser.push(text[at : at + 50])
            parser.finish()
        assert time.thread_time() - started < 2, type(parser)
