"""Ask Ollama's own renderers what they make of odd conversations, and keep some answers in renderers/prompts.json.

    python record_renderers.py ORACLE [--compare N]

ORACLE is the program that `go build` makes of renderers/oracle.go inside of a checkout of Ollama. --compare
records nothing: it draws N new conversations and says where the project's renderers differ.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from ollamapy.prompt.renderers import names, renderer
from ollamapy.types import RequestError

TARGET = Path(__file__).parent / "renderers" / "prompts.json"
EACH = 6  # cases a renderer
REPEATED = 12  # times a question is asked, to see whether the answer is always the same
MODEL = (
    "gemma4",
)  # which gemma4 is of two forms by name: Ollama's registry of renderers knows the small one

Draw = random.Random
Json = Any

TEXTS = (
    *(
        "",
        "a",
        "  hi \n",
        "x <b> & \"q\" 'z'",
        "\n\n",
        "\u2028é\u00a0 ",
        "\u00a0pad\u3000",
        "\x1cweird\x1f",
        "é\x85",
    ),
    *("<think>t1</think>ans", "t2</think>\n\nrest", "<think>open only", "</think>", "a</think>b</think>c"),
    *(
        "<think>a</think>mid<think>b</think>end",
        "<think>\n",
        "/think please",
        "/no_think x",
        "</think>/think",
    ),
    *("hello /nothink", "[img] see [img]", "[img-3] mine", "\ufffdz", "tab\tx\x07\x7f", '{"ok": true}'),
    *(
        "<tool_response>r</tool_response>",
        " <tool_response>r</tool_response>\n",
        "<|channel>th<channel|>after",
    ),
    *("a<|channel>b", "<|tool_call_start|>[x()]<|tool_call_end|>", "Reasoning effort: high"),
    *("<|tool_response_start|>q<|tool_response_end|>", "REASONING EFFORT reasoning strength low"),
    "You can do function calling with the following functions:",
)
KEYS = ("a", "b", "type", "name", "zed", "A", "é", "<k>", "properties", 'q"', "enum", "x y")
NUMBERS = (
    0,
    1,
    -1,
    3,
    2.5,
    1e6,
    123456,
    1234567,
    1e21,
    1e20,
    1e-5,
    1e-7,
    0.1,
    -0.0,
    12345678901,
    1e300,
    1 << 63,
    1e19,
)
TYPES = ("string", "integer", "number", "boolean", "array", "object", "null", "String")
ITEMS: tuple[Json, ...] = (
    {"type": "string"},
    {},
    None,
    {"type": ["string", "null"], "description": "i<>", "enum": ["b", 1]},
    {
        "type": "object",
        "properties": {
            "z": {"type": "string", "nullable": True},
            "a": {"type": "array", "items": {"type": "integer"}},
            "type": {"type": "string"},
            "m": 3,
        },
        "required": ["z", 4],
    },
    {"properties": 4, "required": "x", "type": 5, "minItems": 2, "o": {"q": ["s", 1.5, None]}},
    [1],
    "str",
    {"anyOf": [{"type": "x"}]},
)


def value(draw: Draw, depth: int = 0) -> Json:
    kind = draw.randrange(7 if depth < 3 else 4)
    if kind == 4:
        return draw.choice(KEYS)
    if kind == 5:
        return [value(draw, depth + 1) for _ in range(draw.randrange(3))]
    if kind == 6:
        return {draw.choice(KEYS): value(draw, depth + 1) for _ in range(draw.randrange(3))}
    return draw.choice((draw.choice(TEXTS), draw.choice(NUMBERS), draw.random() < 0.5, None))


def some(draw: Draw, fields: dict[str, tuple[float, Any]]) -> dict[str, Json]:
    """Each field with its probability, made by its function."""
    return {key: make() for key, (chance, make) in fields.items() if draw.random() < chance}


def schema(draw: Draw, depth: int = 0) -> dict[str, Json]:
    def kinds() -> Json:
        return draw.choice(TYPES) if draw.random() < 0.7 else draw.sample(TYPES, draw.randrange(4))

    def branch() -> Json:
        return schema(draw, depth + 1) if draw.random() < 0.4 else {"type": draw.choice(TYPES)}

    deeper = 0.3 if depth < 2 else 0
    return some(
        draw,
        {
            "type": (0.8, kinds),
            "description": (0.5, lambda: draw.choice(TEXTS)),
            "enum": (0.3, lambda: [value(draw, 2) for _ in range(draw.randrange(3))]),
            "items": (0.3, lambda: draw.choice(ITEMS)),
            "properties": (deeper, lambda: properties(draw, depth + 1)),
            "required": (0.3, lambda: draw.sample(KEYS, draw.randrange(3))),
            "anyOf": (deeper, lambda: [branch() for _ in range(draw.randrange(3))]),
            "nullable": (0.1, lambda: True),
        },
    )


def properties(draw: Draw, depth: int = 0) -> dict[str, Json]:
    return {draw.choice(KEYS): schema(draw, depth) for _ in range(draw.randrange(4))}


def tool(draw: Draw) -> dict[str, Json]:
    parameters = some(
        draw,
        {
            "type": (0.8, lambda: draw.choice(("object", "Object", ""))),
            "properties": (0.8, lambda: properties(draw)),
            "required": (0.4, lambda: draw.sample(KEYS, draw.randrange(3))),
            "$defs": (0.1, lambda: value(draw)),
            "items": (0.1, lambda: value(draw)),
        },
    )
    function = some(
        draw, {"description": (0.8, lambda: draw.choice(TEXTS)), "parameters": (0.9, lambda: parameters)}
    )
    function["name"] = draw.choice(("f", "get_x", "ns.one", "ns.two", "s-d.v2", ""))
    return {"type": "function", **some(draw, {"items": (0.1, lambda: value(draw))}), "function": function}


def call(draw: Draw) -> dict[str, Json]:
    arguments = {draw.choice(KEYS): value(draw) for _ in range(draw.randrange(4))}
    function = {"name": draw.choice(("f", "g.h")), "arguments": arguments}
    return {"function": function, **some(draw, {"id": (0.5, lambda: draw.choice(("i1", "i2", "i3")))})}


def message(draw: Draw) -> dict[str, Json]:
    roles = {"user": 6, "assistant": 6, "tool": 4, "system": 2, "developer": 0.5, "chatbot": 0.2, "odd": 0.2}
    (role,) = draw.choices(list(roles), list(roles.values()))
    made: dict[str, Json] = {"role": role, "content": draw.choice(TEXTS)}
    made |= some(draw, {"images": (0.15, lambda: ["AA=="] * draw.randrange(1, 4))})
    if role == "assistant":
        calls = [call(draw) for _ in range(draw.randrange(1, 4))]
        made |= some(
            draw, {"thinking": (0.4, lambda: draw.choice(TEXTS)), "tool_calls": (0.45, lambda: calls)}
        )
    if role == "tool":
        ids = ("i1", "i2", "i3", "i9")
        made |= some(draw, {"tool_name": (0.5, lambda: "f"), "tool_call_id": (0.5, lambda: draw.choice(ids))})
    return made


def conversation(draw: Draw, name: str) -> dict[str, Json]:
    messages = [message(draw) for _ in range(draw.randrange(0 if draw.random() < 0.1 else 1, 6))]
    if draw.random() < 0.5:
        messages.insert(0, {"role": "system", "content": draw.choice(TEXTS)})
    case: dict[str, Json] = {"renderer": name, "messages": messages}
    if draw.random() < 0.4:
        case["tools"] = [tool(draw) for _ in range(draw.randrange(3))]
    return case | {"think": draw.choice((None, True, False, "low", "medium", "high", "max"))}


def ask(oracle: str, cases: list[dict[str, Json]]) -> list[dict[str, str]]:
    """Ollama's answers; {} for what it answers differently every time, since a map of Go's has no order."""
    lines = "".join(json.dumps(case) + "\n" for case in cases for _ in range(REPEATED)).encode()
    done = subprocess.run([oracle], input=lines, capture_output=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    groups = [answers[i : i + REPEATED] for i in range(0, len(answers), REPEATED)]
    return [group[0] if all(other == group[0] for other in group) else {} for group in groups]


def ours(case: dict[str, Json]) -> dict[str, str]:
    try:
        writer = renderer(case["renderer"], MODEL)
        return {"prompt": writer.render(case["messages"], case.get("tools"), case["think"])}
    except RequestError as error:
        return {"error": str(error)}


def record(oracle: str) -> None:
    draw = random.Random(1)
    kept: list[dict[str, Json]] = []
    for name in names():
        cases = [conversation(draw, name) for _ in range(20 * EACH)]
        recorded = [case | answer for case, answer in zip(cases, ask(oracle, cases), strict=True) if answer]
        recorded.sort(key=lambda case: len(json.dumps(case["messages"])), reverse=True)
        usual = [case for case in recorded[EACH:] if len(json.dumps(case)) < 3000]
        kept += usual[:EACH]
    for case in kept:
        if "prompt" in case:
            case["prompt"] = case["prompt"].replace(datetime.date.today().isoformat(), "<DATE>")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in kept)
    TARGET.write_text(f"[\n{lines}\n]\n", "utf-8")


def compare(oracle: str, count: int) -> int:
    draw = random.Random()
    cases = [conversation(draw, draw.choice(names())) for _ in range(count)]
    differing = 0
    for case, theirs in zip(cases, ask(oracle, cases), strict=True):
        if theirs and theirs != ours(case):
            differing += 1
            print(json.dumps(case), "\n  theirs", theirs, "\n  ours", ours(case))
    print(f"{count} conversations, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("oracle")
    parser.add_argument("--compare", type=int, metavar="N", default=0)
    asked = parser.parse_args()
    sys.exit(compare(asked.oracle, asked.compare) if asked.compare else record(asked.oracle))
