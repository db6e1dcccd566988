"""Jinja chat templates: what Hugging Face's extensions do, and what a hostile template may not."""

from __future__ import annotations

import datetime

import pytest

from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError
from ollamapy.prompt.jinja import JinjaTemplate

USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be <brief>"}
CHATML = (
    "{% for message in messages %}\n"
    "    {% if message['content'] == 'skip' %}{% continue %}{% endif %}\n"
    "{{ '<' + message['role'] + '>' + message['content'] }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def test_blocks_leave_no_blanks() -> None:
    assert (
        JinjaTemplate(CHATML).render([{"role": "user", "content": "skip"}, USER]) == "<user>Hi\n<assistant>"
    )


def test_prefill_follows_the_prompt() -> None:
    turns = [USER, {"role": "assistant", "content": "Because"}]
    assert JinjaTemplate(CHATML).render(turns).endswith("<user>Hi\n<assistant>Because")
    with pytest.raises(TemplateSyntaxError, match="2 or more assistant"):
        JinjaTemplate(CHATML).render([*turns, turns[1]])


def test_system_goes_to_the_user_where_the_template_has_no_place() -> None:
    loop = "{% for m in messages %}CHECK[{{ m.role }}:{{ m.content }}]{% endfor %}"
    for check in (
        "{% if m.role == 'system' %}{% continue %}{% endif %}",
        "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
    ):
        template = JinjaTemplate(loop.replace("CHECK", check))
        assert template.render([SYSTEM, USER]) == "[user:Be <brief>\n\nHi]"
        assert template.render([SYSTEM]) == "[user:Be <brief>]"
    assert JinjaTemplate(loop.replace("CHECK", "")).render([SYSTEM, USER]) == "[system:Be <brief>][user:Hi]"


def test_extensions() -> None:
    template = JinjaTemplate(
        "{{ bos_token }}{{ tools | tojson }}{% generation %}x{% endgeneration %}{{ strftime_now('%Y') }}"
        "{{ tools | tojson(indent=1) | length }}"
    )
    tools = [{"b": "<ü>", "a": 1}]
    year = str(datetime.datetime.now().year)
    assert template.render([USER], tools).startswith('<s>[{"b": "<ü>", "a": 1}]x' + year) is False
    assert (
        JinjaTemplate(template.source, "<s>")
        .render([USER], tools)
        .startswith('<s>[{"b": "<ü>", "a": 1}]x' + year)
    )
    assert template.capabilities == {"tools"}
    thinking = JinjaTemplate("{{ enable_thinking is defined }}<think></think>{{ reasoning_effort }}")
    assert thinking.render([USER]) == "False<think></think>"
    assert thinking.render([USER], think="high") == "True<think></think>high"
    assert thinking.capabilities == {"thinking"}


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
    ],
)
def test_refusals(source: str) -> None:
    with pytest.raises(TemplateRenderError):
        JinjaTemplate(source).render([USER])


def test_the_messages_of_a_request_stay_as_they_are() -> None:
    turns = [SYSTEM, USER]
    JinjaTemplate("{% for m in messages %}{{ m.content }}{% endfor %}").render(turns)
    assert turns == [{"role": "system", "content": "Be <brief>"}, {"role": "user", "content": "Hi"}]


def test_syntax_errors() -> None:
    with pytest.raises(TemplateSyntaxError, match="line 2"):
        JinjaTemplate("a\n{% if %}")
    with pytest.raises(TemplateSyntaxError):
        JinjaTemplate("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")
