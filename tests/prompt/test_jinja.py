"""Jinja chat templates: what Hugging Face's extensions do, how llama.cpp shows them a conversation, and what a
hostile template may not."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest

from ollamapy.prompt.chatml import render_chatml
from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError
from ollamapy.prompt.jinja import JinjaTemplate
from ollamapy.prompt.jinja_process import Pool

USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be <brief>"}
ANSWER = {"role": "assistant", "content": "Because"}
CHATML = (
    "{% for message in messages %}\n"
    "    {% if message['content'] == 'skip' %}{% continue %}{% endif %}\n"
    "{{ '<' + message['role'] + '>' + message['content'] }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
CALL = {"id": "call_9", "function": {"name": "f", "arguments": {"z": 1, "a": {"y": 2.0, "b": "<é>"}}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {
            "required": ["z"],
            "type": "object",
            "extra": 1,
            "properties": {"z": {"description": "Z", "type": "number"}, "a": {"type": ["string", "null"]}},
        },
    },
}


def test_blocks_leave_no_blanks() -> None:
    skipped = {"role": "user", "content": "skip"}
    assert JinjaTemplate(CHATML).render([skipped, USER]) == "<user>Hi\n<assistant>"


def test_prefill_follows_the_prompt() -> None:
    template = JinjaTemplate(CHATML)
    assert template.render([USER, ANSWER]).endswith("<user>Hi\n<assistant>Because")
    assert template.render([USER, {**ANSWER, "content": ""}]).endswith("<user>Hi\n")
    with pytest.raises(TemplateSyntaxError, match="2 or more assistant"):
        template.render([USER, ANSWER, ANSWER])
    with pytest.raises(TemplateSyntaxError, match="contains tool calls"):
        template.render([USER, {**ANSWER, "tool_calls": [CALL]}])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # thoughts as the template writes them in earlier answers
        (
            "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}"
            "\n</think>\n\n{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<A>\n{% endif %}",
            "<user>Hi<A>\n<think>\n\n</think>\n\nBecause",
        ),
        # thinking switched off by empty thoughts, which the prefill has already
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<A>"
            "{% if not enable_thinking %}<think></think>{% endif %}{% endif %}",
            "<user>Hi<A><think></think>Because",
        ),
        # an older form, whose template only cuts thoughts off
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>') | last if m.role == 'x' else "
            "m.content }}{% endfor %}{# content.split('</think>') #}{% if add_generation_prompt %}<A>{% endif %}",
            "<user>Hi<A><think></think>Because",
        ),
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<A><think>\n{% endif %}",
            "<user>Hi<A><think>\nBecause",
        ),
    ],
)
def test_prefill_comes_after_empty_thoughts(source: str, expected: str) -> None:
    assert JinjaTemplate(source).render([USER, ANSWER], think=True) == expected


def test_chatml_is_for_models_without_a_template() -> None:
    assert render_chatml([SYSTEM, USER]) == (
        "<|im_start|>system\nBe <brief><|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render_chatml([USER, ANSWER]) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nBecause")
    with pytest.raises(TemplateSyntaxError, match="2 or more assistant"):
        render_chatml([USER, ANSWER, ANSWER])


def test_system_goes_to_the_next_message_where_the_template_does_not_look() -> None:
    loop = "{% for m in messages %}CHECK[{{ m.role }}:{{ m.content }}]{% endfor %}"
    for check in (
        "{% if m.role == 'system' %}{% continue %}{% endif %}",
        "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
    ):
        template = JinjaTemplate(loop.replace("CHECK", check))
        assert template.render([SYSTEM, USER]) == "[user:Be <brief>\nHi]"
        assert template.render([SYSTEM]) == ""
    assert JinjaTemplate(loop.replace("CHECK", "")).render([SYSTEM, USER]) == "[system:Be <brief>][user:Hi]"
    assert JinjaTemplate("{{ messages | tojson }}").render([SYSTEM, USER]).startswith('[{"role": "system"')


def test_extensions() -> None:
    template = JinjaTemplate(
        "{{ bos_token }}{{ tools | tojson }}{% generation %}x{% endgeneration %}{{ strftime_now('%Y') }}"
        "{{ messages | tojson(indent=1) | length }}{{ date_string }}",
        "<s>",
    )
    now = datetime.datetime.now()
    assert template.render([USER], [TOOL]) == (
        '<s>[{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object", '
        '"required": ["z"], "properties": {"z": {"type": "number", "description": "Z"}, "a": {"type": '
        f'["string", "null"]}}}}}}}}}}]x{now.year}45{now:%d %b %Y}'
    )
    assert template.capabilities == {"tools"}
    assert JinjaTemplate("{{ tools is defined }}{{ x is defined }}").render([USER], []) == "FalseFalse"


def test_thinking() -> None:
    template = JinjaTemplate("{{ enable_thinking }}<think></think>{{ reasoning_effort }}")
    assert template.render([USER]) == "False<think></think>"
    assert template.render([USER], think="high") == "True<think></think>high"
    assert template.capabilities == {"thinking"}
    assert JinjaTemplate("content.split('</think>')").capabilities == {"thinking"}
    assert JinjaTemplate("content.split('</think>') reasoning_content").capabilities == set()


def test_calls_keep_their_order_and_are_text_where_nobody_looks_into_them() -> None:
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL], "thinking": "why"}]
    turns.append({"role": "tool", "content": "1", "tool_name": "f", "tool_call_id": "call_9"})
    objects = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}"
    assert JinjaTemplate(objects).render(turns).splitlines()[1:] == [
        '{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", '
        '"arguments": {"z": 1, "a": {"b": "<é>", "y": 2}}}, "id": "call_9"}]}',
        '{"role": "tool", "content": "1", "name": "f", "tool_call_id": "call_9"}',
    ]
    text = (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}{% endfor %}"
    )
    assert JinjaTemplate(text).render(turns) == '{"z":1,"a":{"b":"\\u003cé\\u003e","y":2}}'


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ range(10000000) | list }}",
        "{{ messages[0].content + 1 }}",
        "{% include 'x' %}",
    ],
)
def test_refusals(source: str) -> None:
    with pytest.raises(TemplateRenderError):
        JinjaTemplate(source).render([USER])


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}" + "x" * 99999 + "{% endfor %}",
        "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(n) %}{{ m(n + 1) ~ m(n + 1) if n < 40 }}{% endmacro %}{{ m(1) }}",
        "{% for x in [messages] recursive %}{{ loop([[messages]]) }}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(99) %}{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}"
        "{% set ns.s = s %}{% endfor %}",
        "{{ messages[0].role * 10**10 }}",
        "{{ [messages] * 10**10 }}",
        "{{ 'x' * 10**10 }}",
        "{{ 2 ** (messages | length * 10**12) }}",
        "{{ messages[0].role | center(10**10) }}",
        "{{ 'x' | center(10**10) }}",
        "{{ messages[0].role | indent(10**10) }}",
        "{{ messages[0].role | batch(10**10, 'x') | list | length }}",
        "{{ messages[0].role | slice(10**10) | list | length }}",
        "{{ messages[0].role.ljust(10**10) }}",
        "{{ messages[0].role.zfill(10**10) }}",
        "{{ messages[0].role.replace('', 'x' * 10**6).replace('x', 'y' * 10**6) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10**10, 1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ ('%(a)s' * 10**5) % {'a': 'x' * 10**6} }}",
        "{{ range(99999) | map('string') | map('center', 99999) | join | length }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ 1" + " + 1" * 20000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "x" * 300_000,
    ],
)
def test_hostile_templates_end(source: str) -> None:
    """Each is refused, and the next conversation is served."""
    with pytest.raises((TemplateSyntaxError, TemplateRenderError)):
        JinjaTemplate(source).render([USER])
    assert JinjaTemplate(CHATML).render([USER]) == "<user>Hi\n<assistant>"


def test_a_process_that_dies_or_says_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(workers=1)
    asked: dict[str, Any] = {"source": "{{ messages }}", "variables": [{"messages": 1}]}
    try:
        assert pool.ask(asked) == {"texts": ["1"]}
        pool._idle[0]._process.kill()
        with pytest.raises(TemplateRenderError, match="too much time"):
            pool.ask(asked)
        assert pool.ask(asked) == {"texts": ["1"]}
        monkeypatch.setattr("ollamapy.prompt.jinja_process._PATIENCE", 0.2)
        loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        before = time.monotonic()
        with pytest.raises(TemplateRenderError, match="too much time"):
            pool.ask({"source": loop, "variables": [{}]})
        assert time.monotonic() - before < 10
        assert pool._idle == []
    finally:
        pool.close()


def test_half_characters_do_not_leave() -> None:
    assert JinjaTemplate("{{ '\\ud83d' }}|{{ '\\ud83d\\ude00' }}").render([USER]) == "\ufffd|\U0001f600"


def test_the_messages_of_a_request_stay_as_they_are() -> None:
    turns = [SYSTEM, USER]
    JinjaTemplate("{% for m in messages %}{{ m.content }}{% endfor %}").render(turns)
    assert turns == [{"role": "system", "content": "Be <brief>"}, {"role": "user", "content": "Hi"}]


def test_syntax_errors() -> None:
    with pytest.raises(TemplateSyntaxError, match="line 2"):
        JinjaTemplate("a\n{% if %}").render([USER])
