"""Go templates: the language, and conversations through them. Expected texts are those of Go's own
package."""

from __future__ import annotations

import pytest

from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError
from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.prompt.gotemplate import execute, parse
from ollamapy.prompt.well_known import WELL_KNOWN, edit_distance, recognize

DATA = {"Text": "a<b", "N": 3, "List": ["x", "y", "z"], "Map": {"b": 2, "a": 1}, "Empty": "", "Nil": None}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("no action", "no action"),
        ("a \n {{- .N -}} \n b", "a3b"),
        ("{{/* gone */}}x{{- /* gone */ -}}  y", "xy"),
        ("{{ -3 }}|{{-3}}|{{ 0x1F }}|{{ 017 }}|{{ 1_000 }}", "-3|-3|31|15|1000"),
        ("{{ 1.50 }}|{{ 1e3 }}|{{ 1e21 }}", "1.5|1000|1e+21"),
        (r'{{ "t\tq\" é" }}{{ `raw\n` }}{{ ' + "'a'" + " }}", 't\tq" éraw\\n97'),
        ("{{ .Missing }}{{ .Nil }}", "<no value><no value>"),
        ("{{ if .Empty }}a{{ else if eq .N 3 }}b{{ else }}c{{ end }}", "b"),
        ("{{ range .List }}{{ . }},{{ end }}", "x,y,z,"),
        ("{{ range $i, $e := .List }}{{ $i }}{{ $e }}{{ end }}", "0x1y2z"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }};{{ end }}", "a=1;b=2;"),
        ("{{ range 3 }}{{ . }}{{ end }}{{ range .Nil }}x{{ else }}none{{ end }}", "012none"),
        ("{{ range .List }}{{ if eq . `y` }}{{ continue }}{{ end }}{{ . }}{{ end }}", "xz"),
        ("{{ range .List }}{{ . }}{{ break }}{{ end }}", "x"),
        ("{{ with .Text }}{{ . }}{{ $.N }}{{ else }}no{{ end }}", "a<b3"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ $x }}{{ end }}{{ $x }}", "32"),
        ("{{ .Text | printf `%s-%s` `q` | len }}", "5"),
        ("{{ and 1 .Empty 2 }}|{{ or .Empty `d` }}|{{ not .Empty }}", "|d|true"),
        ("{{ eq .N 1 2 3 }}{{ ne 1 2 }}{{ lt 1 2 }}{{ ge `b` `a` }}", "truetruetruetrue"),
        ("{{ index .List 1 }}{{ index .Map `a` }}{{ slice .List 1 }}{{ len `é` }}", "y1[y z]2"),
        ("{{ (index .List 0) }}{{ (printf `%d` 5) | len }}", "x1"),
        ("{{ json .Map }}{{ json .Text }}", '{"a":1,"b":2}"a\\u003cb"'),
        ("{{ define `t` }}<{{ . }}>{{ end }}{{ template `t` .N }}", "<3>"),
        ("{{ block `u` 7 }}[{{ . }}]{{ end }}", "[7]"),
        ("{{ printf `%05d|%-4s|%q|%v` 42 `a` `b` .List }}", '00042|a   |"b"|[x y z]'),
        ("{{ printf `%t|%x|%d` true 255 `s` }}", "true|ff|%!d(string=s)"),
        ("{{ print 1 2 `a` 3 }}|{{ println 1 `a` }}", "1 2a3|1 a\n"),
    ],
)  # fmt: skip
def test_language(source: str, expected: str) -> None:
    assert execute(parse(source), DATA) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ .A", "template: :1: unclosed action"),
        ("a\nb {{ if }}", "template: :2: missing value for if"),
        ("{{ range .A }}", "template: :1: unexpected EOF"),
        ("{{ nope . }}", 'function "nope" not defined'),
        ("{{ $x }}", 'undefined variable "$x"'),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ break }}", "{{break}} outside {{range}}"),
        ('{{ "abc }}', "unterminated quoted string"),
        ("{{ (1 }}", "unclosed left paren"),
        ("{{ 1) }}", "unexpected right paren"),
        ("{{/* x", "unclosed comment"),
        ("{{ if 1 }}{{ else }}{{ else }}{{ end }}", "expected end; found {{else}}"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "bad character U+005B '['"),
        ("{{ if 1 }}" * 500, "nest too deeply"),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "nest too deeply"),
    ],
)
def test_syntax_errors(source: str, message: str) -> None:
    with pytest.raises(TemplateSyntaxError) as error:
        parse(source)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ .Text.Field }}",
        "{{ .Nil.Field }}",
        "{{ index .List 9 }}",
        "{{ len .N }}",
        "{{ range .Text }}{{ end }}",
        "{{ template `none` }}",
        "{{ eq .List .List }}",
        "{{ lt 1 `a` }}",
        "{{ nil }}",
        "{{ .Text .N }}",
        "{{ define `t` }}{{ template `t` }}{{ end }}{{ template `t` }}",
        "{{ printf 3 }}",
    ],
)
def test_execution_errors(source: str) -> None:
    with pytest.raises(TemplateRenderError, match=r"template: :1: executing"):
        execute(parse(source), DATA)


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
    with pytest.raises(TemplateRenderError, match="can't evaluate field Nope"):
        GoTemplate("{{ range .Messages }}{{ .Nope }}{{ end }}").render(HISTORY)


def test_older_templates_run_once_per_exchange() -> None:
    template = GoTemplate("{{ if .System }}[{{ .System }}]{{ end }}Q:{{ .Prompt }} A:{{ .Response }}.\n")
    assert template.render(HISTORY) == "[S]Q:A\n\nB A:C.\nQ:D A:"
    assert GoTemplate("Q:{{ .Prompt }} A:").render(HISTORY) == "Q:A\n\nB A:CQ:D A:"


def test_capabilities() -> None:
    assert GoTemplate("{{ .Prompt }}").capabilities == set()
    assert GoTemplate("{{ .Prompt }}{{ .Suffix }}").capabilities == {"insert"}
    assert GoTemplate("{{ range .Messages }}{{ $.Tools }}{{ end }}").capabilities == {"tools"}
    assert GoTemplate("{{ .Prompt }}|{{ .Suffix }}|{{ .Response }}").render_insert("a", "b") == "a|b|"


def test_well_known() -> None:
    for known in WELL_KNOWN:
        assert GoTemplate(known.template).render(HISTORY[:1]).startswith("<|im_start|>system\nS<|im_end|>\n")
        for form in known.jinja:
            assert recognize(form) is known
            assert recognize(form.replace("helpful", "kind and helpful")) is known
    assert recognize("{{ messages }}") is None


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting", 10) == 3
    assert edit_distance("kitten", "sitting", 3) == 3
    assert edit_distance("", "abc", 10) == 3
    assert edit_distance("abc", "abc", 1) == 0
    assert edit_distance("a" * 50, "b" * 50, 20) == 20
