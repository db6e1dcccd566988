"""The Modelfile's grammar, its errors, and that what is written reads back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamapy.store.modelfile import Command, Modelfile, ModelfileError, parse_modelfile
from ollamapy.store.parameters import (
    PARAMETERS,
    ParameterError,
    float_text,
    parse_parameter,
    plain_text,
)

NAMES = 'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", '
NAMES += '"parser", "parameter", "message", or "requires"'
ROLES = 'message role must be one of "system", "user", or "assistant"'


def commands(text: str | bytes) -> list[tuple[str, str, str]]:
    return [(c.name, c.key, c.value) for c in parse_modelfile(text).commands]


def test_whole_grammar() -> None:
    text = (
        "# a comment\n\n  # another\r\nFROM  base \r\nfrom ./projector.gguf\nPARAMETER temperature 0.5\n"
        'parameter num_ctx 10\nPARAMETER stop "a b"\nPARAMETER stop # no comment\nADAPTER ./lora.gguf\n'
        'SYSTEM """one\n# two\n"three" """\nTEMPLATE "{{ .Prompt }}"\nMESSAGE user hi: there\n'
        'MESSAGE assistant """yes,\n"no""""\nLICENSE "MIT\nor not"\nLICENSE Apache\nRENDERER qwen3-coder\n'
        "PARSER qwen3\nREQUIRES 0.14.0\nDRAFT ./draft\nSYSTEM   "
    )
    assert commands(text) == [
        ("from", "", "base"),
        ("from", "", "./projector.gguf"),
        ("parameter", "temperature", "0.5"),
        ("parameter", "num_ctx", "10"),
        ("parameter", "stop", "a b"),
        ("parameter", "stop", "# no comment"),
        ("adapter", "", "./lora.gguf"),
        ("system", "", 'one\n# two\n"three" '),
        ("template", "", "{{ .Prompt }}"),
        ("message", "user", "hi: there"),
        ("message", "assistant", 'yes,\n"no"'),
        ("license", "", "MIT\nor not"),
        ("license", "", "Apache"),
        ("renderer", "", "qwen3-coder"),
        ("parser", "", "qwen3"),
        ("requires", "", "0.14.0"),
        ("draft", "", "./draft"),
        ("system", "", ""),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("FROM a\x07b", "ab"),
        ('FROM ""', ""),
        ('FROM """"""', ""),
        ('FROM "a" b\nc"', 'a" b\nc'),  # quotes end where a line does
        ('FROM "a\n\nb"  \n', "a\n\nb"),
        ("FROM 'a'", "'a'"),
        ("FROM a\rSYSTEM b", "a"),
        ("\ufeffFROM a", "a"),
        ("FROM\ta\t", "a"),
    ],
)
def test_values(text: str, value: str) -> None:
    assert parse_modelfile(text).values("from") == [value]


def test_encodings() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert commands("FROM é☀".encode(encoding)) == [("from", "", "é☀")]
    assert commands(b"FROM a\xff") == [("from", "", "a\ufffd")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line"),
        ("SYSTEM x", "no FROM line"),
        ("FROM a\n\nBAD x", f"(line 3): {NAMES}"),
        ("FROM a\nBAD\nSYSTEM x", f"(line 3): {NAMES}"),
        ("FROM a\nSYSTEM2 x", f"(line 2): {NAMES}"),
        ("FROM a\r\n<b>", f"(line 2): {NAMES}"),
        ('FROM a\nSYSTEM """x', "unexpected EOF"),
        ('FROM a\nSYSTEM "x\ny\nz', "unexpected EOF"),
        ("FROM a\nSYSTEM", "unexpected EOF"),
        ("FROM a\nPARAMETER x\n", "unexpected EOF: x"),
        ("FROM a\nPARAMETER x-y 1\n", "unexpected EOF: x"),
        ("FROM a\nMESSAGE wizard x", f"(line 2): {ROLES}"),
        ("FROM a\nMESSAGE User x", f"(line 2): {ROLES}"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ModelfileError) as error:
        parse_modelfile(text)
    assert str(error.value) == message


VALUES = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), include_characters="\n\t"), min_size=1, max_size=60
)


@settings(max_examples=200, deadline=None)
@given(VALUES, VALUES, st.sampled_from(["user", "assistant", "system"]))
def test_written_reads_back(system: str, message: str, role: str) -> None:
    """All texts but those that no quotes can hold."""
    for text in (system, message):
        shown = text.strip()
        if (
            '"""' in text
            or text.endswith('"')
            or shown.startswith('"')
            or (shown != text and "\n" not in text)
        ):
            return
    written = Modelfile([Command("from", "x"), Command("system", system), Command("message", message, role)])
    assert parse_modelfile(str(written)) == written


def test_parameters() -> None:
    assert parse_parameter("stop", ["a", "b c"]) == ["a", "b c"]
    assert parse_parameter("num_ctx", ["8192", "ignored"]) == 8192
    assert parse_parameter("temperature", ["1e-1"]) == 0.1
    assert parse_parameter("use_mmap", ["T"]) is True
    for name, word, message in (
        ("nope", "1", "unknown parameter 'nope'"),
        ("num_ctx", "1.5", "invalid int value [1.5]"),
        ("num_ctx", "", "invalid int value []"),
        ("seed", "99999999999999999999", "invalid int value [99999999999999999999]"),
        ("top_p", "x", "invalid float value [x]"),
        ("top_p", "nan", "invalid float value [nan]"),
        ("use_mmap", "yes", "invalid bool value [yes]"),
    ):
        with pytest.raises(ParameterError) as error:
            parse_parameter(name, [word])
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.7, "0.7"),
        (-2.5, "-2.5"),
        (1e6, "1e+06"),
        (1e-5, "1e-05"),
        (131072.0, "131072"),
    ],
)
def test_numbers_as_go_prints_them(value: float, text: str) -> None:
    assert float_text(value) == text
    assert float(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1), st.booleans())
def test_parameters_read_back(number: float, integer: int, truth: bool) -> None:
    assert parse_parameter("temperature", [plain_text(number)]) == number
    assert parse_parameter("seed", [plain_text(integer)]) == integer
    assert parse_parameter("use_mmap", [plain_text(truth)]) is truth
    assert len(PARAMETERS) == 20
