"""Well-known chat templates: each published Jinja is recognized, and its TEMPLATE writes what it writes."""

from __future__ import annotations

import re

import pytest

from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.prompt.jinja import JinjaTemplate
from ollamapy.prompt.well_known import WellKnown, edit_distance, recognize, well_known

SYSTEM = {"role": "system", "content": "You are S."}
TURNS = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "Q2"},
]
# a system text in every prompt; the TEMPLATE lets the model's own take its place
ALWAYS_INTRODUCED = ("You are an exceptionally intelligent", "This is a chat between a user")
OWN_HEAD = re.compile(r"Cutting Knowledge Date: December 2023\nToday Date: .*\n\n")  # of Llama 3.1
FORMS = [(known, form) for known in well_known() for form in known.jinja]


def named(case: tuple[WellKnown, str]) -> str:
    return f"{case[0].name}-{len(case[1])}"


def test_about_twenty() -> None:
    assert len({known.name for known in well_known()}) == 19
    assert all(known.stop for known in well_known())


@pytest.mark.parametrize("case", FORMS, ids=named)
def test_the_template_writes_what_the_jinja_writes(case: tuple[WellKnown, str]) -> None:
    known, form = case
    end = "<|endoftext|>" if known.name == "starcoder2-instruct" else "</s>"
    jinja, template = JinjaTemplate(form, "<s>", end), GoTemplate(known.template)
    for turns in (TURNS[:1], TURNS):
        wanted, got = jinja.render(turns).removeprefix("<s>"), template.render(turns)
        assert wanted.endswith(got)  # a system text of the form's own stands before
        assert wanted == got or "system" in form
        if any(text in form for text in ALWAYS_INTRODUCED):
            assert wanted == got
            continue
        wanted = OWN_HEAD.sub("", jinja.render([SYSTEM, *turns]).removeprefix("<s>"))
        assert template.render([SYSTEM, *turns]) == wanted


@pytest.mark.parametrize("case", FORMS, ids=named)
def test_it_is_recognized(case: tuple[WellKnown, str]) -> None:
    known, form = case
    assert recognize(form) is known
    assert recognize("\n" + form.replace("\n", "\r\n")) is known
    middle = len(form) // 2
    edited = form[:middle] + "{# a remark of forty characters, to be exact #}" + form[middle:]
    found = recognize(edited)
    assert found is not None
    assert found.name == known.name


def test_others_are_not() -> None:
    assert recognize("{{ messages }}") is None
    assert recognize("") is None
    assert recognize(FORMS[0][1] + "{#" + "x" * 100 + "#}") is None


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting", 10) == 3
    assert edit_distance("kitten", "sitting", 3) == 3
    assert edit_distance("", "abc", 10) == 3
    assert edit_distance("abc", "abc", 1) == 0
    assert edit_distance("a" * 50, "b" * 50, 20) == 20
