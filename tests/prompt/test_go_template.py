"""Go templates: the language against recorded answers of Ollama's own template package, conversations, and
what a hostile template may not."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError
from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.prompt.gotemplate import parse

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from record_templates import asks  # noqa: E402

from ollamapy.prompt.template_tags import thinking_tags  # noqa: E402

ANSWERS = json.loads((GOLDEN / "templates" / "answers.json").read_text("utf-8"))
WORDED_OTHERWISE = (  # the same errors, which Go tells by what its reflection met, or of which it has more room
    "exceeded maximum template depth", "non-comparable type", "non-function", "iterate over more than one variable",
    "can't evaluate field Nope in type *template.templateMessage", "can't give argument to non-function 1",
    "can't evaluate field X in type int",
)  # fmt: skip


def ask_ours(question: dict[str, Any]) -> dict[str, str]:
    """What our package makes of a question of the recording, in the recording's form."""
    think = (question.get("Level") or question.get("Think")) if question.get("Set") else None
    try:
        template = GoTemplate(question["Template"])
        if "Suffix" in question:
            return {"text": template.render_insert(question["Prompt"], question["Suffix"])}
        return {"text": template.render(question["Messages"], question.get("Tools"), think)}
    except TemplateSyntaxError as error:
        return {"create": str(error)}
    except TemplateRenderError as error:
        return {"error": str(error)}


@pytest.mark.parametrize("group", sorted({question["id"].split(".")[0] for question in asks()}))
def test_as_ollama(group: str) -> None:
    wrong = []
    for question in asks():
        answer = ANSWERS[question["id"]]
        if (
            question["id"].split(".")[0] != group or "panic" in answer
        ):  # where Go itself crashes anything goes
            continue
        ours = ask_ours(question)
        kind = next(kind for kind in ("create", "error", "text") if kind in answer)
        same = ours.get(kind) == answer[kind]
        if kind in ours and any(words in answer[kind] for words in WORDED_OTHERWISE):
            same = True
        if not same:
            wrong.append((question["id"], question["Template"], answer, ours))
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "{{ range 1000000000 }}{{ end }}",
        '{{ $s := "xx" }}{{ range 100 }}{{ $s = print $s $s }}{{ end }}',
        '{{ range 100000 }}{{ printf "%1000000d" 1 }}{{ end }}',
        '{{ range 100000 }}{{ printf "%.1000000f" 1.5 | len }}{{ end }}',
        '{{ printf "' + "%1000000[1]d" * 1000 + '" 1 }}',
        '{{ $s := printf "%1000000d" 1 }}{{ range 1000000 }}{{ eq $s $s }}{{ html $s }}{{ end }}',
        '{{ $s := printf "%1000000s" "é" }}{{ range 1000000 }}{{ len $s }}{{ end }}',
        '{{ $s := printf "%1000000s" "é" }}{{ range 1000000 }}{{ index $s 5 }}{{ slice $s 1 }}{{ end }}',
        "{{ range 1000000 }}{{ json $.Messages }}{{ end }}",
        "{{ range 1000000 }}{{ range $k, $v := $ }}{{ break }}{{ end }}{{ end }}",
        "{{ define `t` }}{{ template `t` . }}{{ end }}{{ template `t` 1 }}",
        "{{ define `t` }}{{ template `t` . }}{{ template `t` . }}{{ end }}{{ template `t` 1 }}",
        "{{ define `t` }}{{ if lt (len .) 50 }}{{ template `t` (print . 1) }}{{ template `t` (print . 1) }}"
        "{{ end }}{{ end }}"
        "{{ template `t` `` }}",
        "{{ if 1 }}" * 500 + "{{ end }}" * 500,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "not (" * 99 + "1" + ")" * 99 + " }}{{ nil }}",
        "{{ 1 }}" * 400_000,
    ],
)
def test_hostile_templates_end(source: str) -> None:
    """Each is refused within bounded time, as a template at creation or as a run."""
    before = time.process_time()
    with pytest.raises((TemplateSyntaxError, TemplateRenderError)):
        GoTemplate("{{ with .Messages }}{{ end }}" + source).render(
            [{"role": "user", "content": "x" * 10_000}]
        )
    assert time.process_time() - before < 20


def test_deep_data_is_refused() -> None:
    deep: Any = 1
    for _ in range(450):
        deep = [deep]
    call = {"function": {"name": "f", "arguments": {"deep": deep}}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    for show in ("json .", 'printf "%v" .'):
        source = (
            f"{{{{ range .Messages }}}}{{{{ range .ToolCalls }}}}{{{{ {show} }}}}{{{{ end }}}}{{{{ end }}}}"
        )
        try:
            assert "[[[[[1]]]]]" in GoTemplate(source).render(messages)
        except TemplateRenderError as error:
            assert "too deeply" in str(error)


def test_nested_properties_print_with_any_verb() -> None:
    """Go writes the address of their table; which one nobody can say."""
    inner = {"type": "object", "properties": {"z": {"type": "boolean"}}}
    function = {"name": "f", "parameters": {"type": "object", "properties": {"nest": inner}}}
    source = '{{ range .Tools }}{{ printf "%v %t %s" .Function .Function .Function }}{{ end }}'
    text = GoTemplate("{{ with .Messages }}{{ end }}" + source).render([], [{"function": function}])
    assert text.startswith("{f  {object <nil> <nil> [] {")
    assert "%!t(string=f)" in text


@pytest.mark.parametrize("source", ["{{ if 1 }}" * 500, "{{ " + "(" * 500 + "1" + ")" * 500 + " }}"])
def test_depth_of_a_template(source: str) -> None:
    with pytest.raises(TemplateSyntaxError, match="nests too deeply"):
        parse(source)


def test_templates_may_call_each_other_for_a_while() -> None:
    source = (
        "{{ define `t` }}{{ if lt (len .) 50 }}{{ with 1 }}{{ template `t` (print $ `1`) }}{{ end }}{{ else }}{{ . }}"
        "{{ end }}{{ end }}{{ with .Messages }}{{ end }}{{ template `t` `` }}"
    )
    assert GoTemplate(source).render([]) == "1" * 50


HISTORY = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "A"},
    {"role": "user", "content": "B"},
    {"role": "assistant", "content": "C"},
    {"role": "user", "content": "D"},
]


def test_messages_of_one_role_become_one() -> None:
    template = GoTemplate("{{ .System }}:{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}")
    assert template.render(HISTORY) == "S:<system>S<user>A\n\nB<assistant>C<user>D"
    assert HISTORY[1]["content"] == "A"


def test_older_templates_run_once_per_exchange() -> None:
    template = GoTemplate("{{ if .System }}[{{ .System }}]{{ end }}Q:{{ .Prompt }} A:{{ .Response }}.\n")
    assert template.render(HISTORY) == "[S]Q:A\n\nB A:C.\nQ:D A:"
    assert GoTemplate("Q:{{ .Prompt }} A:").render(HISTORY) == "Q:A\n\nB A:CQ:D A:"


def test_thinking_is_seen_in_the_loop_over_messages() -> None:
    def tags(inner: str) -> tuple[str, str] | None:
        return thinking_tags(parse(f"{{{{ range .Messages }}}}{inner}{{{{ end }}}}"))

    assert tags("{{ if .Thinking }}<t> {{ .Thinking }} </t>{{ end }}") == ("<t>", "</t>")
    assert tags("{{ if .Thinking }}{{ .Thinking }} </t>{{ end }}") is None
    assert tags("{{ .Content }}") is None
    assert thinking_tags(parse("<t>{{ .Thinking }}</t>")) is None
    assert "thinking" in GoTemplate("{{ range .Messages }}<t>{{ .Thinking }}</t>{{ end }}").capabilities


def test_capabilities() -> None:
    assert GoTemplate("{{ .Prompt }}").capabilities == set()
    assert GoTemplate("{{ .Prompt }}{{ .Suffix }}").capabilities == {"insert"}
    assert GoTemplate("{{ range .Messages }}{{ $.Tools }}{{ end }}").capabilities == {"tools"}
    assert GoTemplate("{{ .Tools }}").has_tool_round_trip is False
    assert GoTemplate('{{ .Tools }}{{ .ToolCalls }}{{ if eq .Role "tool" }}{{ end }}').has_tool_round_trip
    assert GoTemplate("{{ .Prompt }}|{{ .Suffix }}|{{ .Response }}").render_insert("a", "b") == "a|b|"
