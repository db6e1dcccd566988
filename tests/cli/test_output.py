"""Pieces of the commands' output."""

from __future__ import annotations

import datetime

import pytest

from ollamapy.cli import main
from ollamapy.cli.output import ago, human_bytes, moment, span
from ollamapy.cli.pull import destination
from ollamapy.cli.run import Session
from ollamapy.cli.show import describe, section
from ollamapy.cli.wrap import Wrapper
from ollamapy.server.duration import FOREVER, DurationError, duration_text, keep_alive, parse_duration
from ollamapy.server.settings import Settings, parse_host


def test_sizes_and_ages() -> None:
    assert [human_bytes(n) for n in (5, 1500, 98_362_745, 1_250_000_000, 40_000_000_000)] == [
        "5 B",
        "1.5 KB",
        "98 MB",
        "1.2 GB",
        "40 GB",
    ]
    assert [span(s) for s in (0.2, 1, 59, 60, 200, 3600, 7300, 86400, 200_000, 40_000_000)] == [
        "Less than a second",
        "1 second",
        "59 seconds",
        "About a minute",
        "3 minutes",
        "About an hour",
        "2 hours",
        "24 hours",
        "2 days",
        "15 months",
    ]
    assert ago(datetime.datetime.now(datetime.timezone.utc).isoformat()) == "Less than a second ago"
    assert moment("2026-11-23T04:00:15.260540787Z").microsecond == 260540
    assert moment("2026-11-23T04:00:15.5+01:00").microsecond == 500_000
    assert moment("2026-11-23T04:00:15Z").second == 15


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("show", "accepts 1 arg(s), received 0"),
        ("show a b", "accepts 1 arg(s), received 2"),
        ("cp a", "accepts 2 arg(s), received 1"),
        ("rm", "requires at least 1 arg(s), only received 0"),
        ("run", "requires at least 1 arg(s), only received 0"),
        ("nope", 'unknown command "nope" for "ollamapy"'),
        ("show x --nope", "unknown flag: --nope"),
        (
            "show x --verbose=maybe",
            'invalid argument "maybe" for "-v, --verbose" flag: strconv.ParseBool: '
            'parsing "maybe": invalid syntax',
        ),
        ("show -x y", "unknown shorthand flag: 'x' in -x"),
        ("run x --keepalive", "flag needs an argument: --keepalive"),
        ("create x -f", "flag needs an argument: 'f' in -f"),
        (
            "show x --license --system",
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified",
        ),
    ],
)
def test_a_wrong_call_is_told_in_one_line(words: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of the real program."""
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 1
    assert capsys.readouterr() == ("", f"Error: {text}\n")


def test_help_needs_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["show", "--help"])
    assert end.value.code == 0
    assert "Usage: ollamapy show" in capsys.readouterr().out


def test_thinking_follows_the_model_unless_the_user_has_said() -> None:
    session = Session("a")
    said = Session("a", think=False, think_said=True)
    for capabilities, think in ((["thinking"], True), ([], None)):
        for each in (session, said):
            each.use("b", {"capabilities": capabilities})
        assert (session.think, said.think) == (think, False)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("me/m", "https://ollama.com/me/m"),
        ("me/m:1", "https://ollama.com/me/m:1"),
        ("m", "https://ollama.com/m"),
        ("127.0.0.1:5/t/m", "127.0.0.1:5/t/m:latest"),
    ],
)
def test_where_a_pushed_model_is(model: str, place: str) -> None:
    assert destination(model) == place


LICENSE = (
    "license text here that is long enough to go beyond one hundred characters so that it has to be wrapped "
    "by the table writer in two"
)


def test_sections_of_a_model_as_ollama_shows_them() -> None:
    """Recorded of `ollama show -v`, but for the metadata, of which these are a few."""
    info = {
        "details": {"family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"},
        "model_info": {"general.architecture": "llama", "llama.context_length": 8192, "general.languages": ["en"],
                       "llama.rope.freq_base": 100000, "general.parameter_count": 134515008,
                       "tokenizer.ggml.token_type": [3] * 7, "tokenizer.ggml.add_bos_token": False},
        "capabilities": ["completion"],
        "parameters": "stop                           \"a\"\nstop                           \"b c\"",
        "system": "two\nlines\nand more",
        "license": f"MIT\n{LICENSE}",
        "tensors": [{"name": "output_norm.weight", "type": "F32", "shape": [576]}],
    }  # fmt: skip
    assert (
        describe(info, verbose=True)
        == """\
  Model
    architecture      llama
    parameters        134.52M
    context length    8192
    quantization      Q4_1

  Capabilities
    completion

  Parameters
    stop    "a"
    stop    "b     c"

  Metadata
    general.architecture            llama
    general.languages               [en]
    general.parameter_count         1.34515008e+08
    llama.context_length            8192
    llama.rope.freq_base            100000
    tokenizer.ggml.add_bos_token    false
    tokenizer.ggml.token_type       [3 3 3 ...+4 more]

  Tensors
    output_norm.weight    F32    [576]

  System
    two
    lines
    ...

  License
    MIT
    license text here that is long enough to go beyond one hundred characters so that it has to be
      wrapped by the table writer in two

"""
    )


def test_cells_wrap_evenly() -> None:
    assert section("T", [("aaa bbb ccc ddd", "x")], 10) == "  T\n    aaa bbb       x\n      ccc ddd\n"


def screen(wrapped: str) -> list[str]:
    """What a terminal shows of text with the one escape that the wrapper writes."""
    lines = [""]
    position = 0
    while position < len(wrapped):
        if wrapped.startswith("\x1b[K", position):
            position += 3
        elif wrapped.startswith("\x1b[", position):
            end = wrapped.index("D", position)
            lines[-1] = lines[-1][: -int(wrapped[position + 2 : end])]
            position = end + 1
        elif wrapped[position] == "\n":
            lines.append("")
            position += 1
        else:
            lines[-1] += wrapped[position]
            position += 1
    return lines


def test_words_wrap() -> None:
    wrapper = Wrapper(10)
    text = "".join(
        wrapper.feed(piece) for piece in ("The qu", "ick brown f", "ox jumps\nover abcdefghijklmno")
    )
    assert [line.rstrip() for line in screen(text)] == [
        "The quick",
        "brown fox",
        "jumps",
        "over",
        "abcdefghij",
        "klmno",
    ]
    assert Wrapper(0).feed("x" * 100) == "x" * 100
    wide = Wrapper(4)
    assert screen(wide.feed("日本語")) == ["日本", "語"]


@pytest.mark.parametrize(
    ("text", "url", "listens"),
    [
        ("", "http://127.0.0.1:11434", "127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434", "0.0.0.0:11434"),
        ("example.com", "http://example.com:11434", "example.com:11434"),
        ("http://example.com", "http://example.com:80", "example.com:80"),
        ("https://example.com/x/", "https://example.com:443/x", "example.com:443"),
        ("[::1]", "http://[::1]:11434", "[::1]:11434"),
        ("[::]:9", "http://[::1]:9", "[::]:9"),
        ("::1", "http://[::1]:11434", "[::1]:11434"),
        ('"1.2.3.4:56"', "http://1.2.3.4:56", "1.2.3.4:56"),
        ("1.2.3.4:99999", "http://1.2.3.4:11434", "1.2.3.4:11434"),
    ],
)
def test_addresses(text: str, url: str, listens: str) -> None:
    address = parse_host(text)
    assert (address.url, address.text) == (url, listens)


def test_settings() -> None:
    settings = Settings.from_environment(
        {
            "OLLAMA_HOST": ":1",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_CONTEXT_LENGTH": "x",
            "OLLAMA_MODELS": "/m",
            "OLLAMA_ORIGINS": "http://a, *",
            "OLLAMA_NOPRUNE": "1",
            "OLLAMA_LOAD_TIMEOUT": "10s",
        }
    )
    assert (settings.address.port, settings.keep_alive, settings.context_length) == (1, FOREVER, 4096)
    assert (str(settings.models), settings.prune, settings.load_timeout) == ("/m", False, 10)
    assert settings.origins[:2] == ("http://a", "*")


@pytest.mark.parametrize(
    ("text", "kind", "complains"),
    [("", "f16", False), ("f16", "f16", False), ("Q8_0", "q8_0", False), ("q4_0", "q4_0", False), ("q5", "f16", True)],
)  # fmt: skip
def test_kv_type(text: str, kind: str, complains: bool, caplog: pytest.LogCaptureFixture) -> None:
    environment = {"OLLAMA_KV_CACHE_TYPE": text, "OLLAMA_FLASH_ATTENTION": "1"}
    assert Settings.from_environment(environment).kv_type == kind
    wanted = ["OLLAMA_KV_CACHE_TYPE=q5 is not one of f16, q8_0, q4_0, using f16"] if complains else []
    assert [record.getMessage() for record in caplog.records] == wanted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("-1.5s", -1.5), ("0", 0), ("100ms", 0.1), (".5s", 0.5), ("+2us", 2e-6)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"), (1, "1ns"), (1100, "1.1µs"), (2_200_000, "2.2ms"), (999_999_999, "999.999999ms"), (10**9, "1s"),
        (3_300_000_000, "3.3s"), (245 * 10**9, "4m5s"), (245_001_000_000, "4m5.001s"), (3600 * 10**9, "1h0m0s"),
        (18_367_000_000_001, "5h6m7.000000001s"),
    ],
)  # fmt: skip
def test_durations_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert duration_text(nanoseconds) == text


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "5mm", "1h-2m", "--5s", "1e3s", "."])
def test_no_durations(text: str) -> None:
    with pytest.raises(DurationError):
        parse_duration(text)


def test_keep_alive() -> None:
    assert [keep_alive(v) for v in (None, 5, 90.5, "0s", -1, "-1m")] == [None, 5, 90.5, 0, FOREVER, FOREVER]
    for value in (True, [], {}):
        with pytest.raises(DurationError):
            keep_alive(value)
