"""The text side of a request: characters, stop sequences, log probabilities."""

from __future__ import annotations

from fake_core import FakeDetokenizer, FakeTokenizer
from hypothesis import given
from hypothesis import strategies as st

from ollamapy.engine.stream import Emission, TextStream


def streamed(
    pieces: list[bytes], stop: tuple[str, ...] = (), logprobs: int = -1
) -> tuple[list[Emission], int]:
    """What leaves after each piece and at the end, and how many pieces were taken."""
    tokenizer = FakeTokenizer({100 + i: piece for i, piece in enumerate(pieces)})
    stream = TextStream(tokenizer, FakeDetokenizer(tokenizer), stop, logprobs)
    out = []
    for i in range(len(pieces)):
        out.append(stream.push(100 + i, -0.5 - i, [(100 + i, -0.5 - i), (5, -7.0)]))
        if out[-1].stop is not None:
            return out, i + 1
    return [*out, stream.finish()], len(pieces)


def text_of(emissions: list[Emission]) -> str:
    return "".join(e.text for e in emissions)


def test_text_leaves_at_once_without_stops() -> None:
    out, _ = streamed([b"Hel", b"lo"])
    assert [e.text for e in out] == ["Hel", "lo", ""]
    assert [e.tokens for e in out] == [[100], [101], []]


def test_a_possible_stop_is_held_back_and_leaves_when_it_is_none() -> None:
    out, _ = streamed([b"a <", b"EN", b"D<", b" b"], ("<END>",))
    assert [e.text for e in out] == ["a ", "", "<END", "< b", ""]


def test_a_stop_across_tokens_never_leaks() -> None:
    out, taken = streamed([b"one <E", b"N", b"D> two"], ("<END>",))
    assert [e.text for e in out] == ["one ", "", ""]
    assert (out[-1].stop, taken) == ("<END>", 3)


def test_the_stop_that_is_complete_first_wins() -> None:
    assert streamed([b"brown fox"], ("brown fox", "own"))[0][-1] == Emission("br", [100], [], "own")
    assert streamed([b"one STOP two HALT"], ("HALT", "STOP"))[0][-1].text == "one "
    assert streamed([b"x fox jumps over a"], ("fox jumps over a", "fox jumps"))[0][-1].stop == "fox jumps"
    assert streamed([b"xabc"], ("bc", "abc"))[0][-1] == Emission("x", [100], [], "abc")


def test_what_is_held_leaves_at_the_end() -> None:
    out, _ = streamed([b"The q"], ("The quick brown cat",))
    assert [e.text for e in out] == ["", "The q"]
    assert out[-1].tokens == [100]


def test_an_empty_stop_is_ignored() -> None:
    assert text_of(streamed([b"all", b" of it"], ("",))[0]) == "all of it"


def test_a_stop_within_split_characters() -> None:
    world = "世界".encode()
    out, taken = streamed([b"ab " + world[:1], world[1:4], world[4:] + b" cd"], ("世界",))
    assert (text_of(out), out[-1].stop, taken) == ("ab ", "世界", 3)


def test_an_unfinished_character_is_dropped() -> None:
    assert text_of(streamed([b"abc", b"\xe2\x82"])[0]) == "abc"


def test_logprobs_of_a_split_character_stand_with_its_last_token() -> None:
    smile = "😁".encode()
    out, _ = streamed([b"A", smile[:2], smile[2:] + b"b", b"c"], logprobs=2)
    entries = [entry for e in out for entry in e.logprobs]
    assert [(e.token, e.text, e.data, e.logprob) for e in entries] == [
        (100, "A", b"A", -0.5),
        (102, "😁b", smile + b"b", -2.5),
        (103, "c", b"c", -3.5),
    ]
    assert [e.tokens for e in out] == [[100], [], [101, 102], [103], []]
    assert [(t.token, t.data) for t in entries[1].top] == [(102, smile[2:] + b"b"), (5, b"$")]


def test_logprobs_leave_with_their_text() -> None:
    out, _ = streamed([b"a<", b"EN", b"!"], ("<END>",), logprobs=0)
    assert [[entry.text for entry in e.logprobs] for e in out] == [["a<"], [], ["EN", "!"], []]
    out, _ = streamed([b"a", b"<E", b"ND>"], ("<END>",), logprobs=0)
    assert [[entry.text for entry in e.logprobs] for e in out] == [["a"], [], []]


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By the definition: the first prefix of the text that ends with a stop."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if s and text[:end].endswith(s)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    st.lists(st.text("abé😁", max_size=6), max_size=8),
    st.lists(st.text("abé😁", max_size=4), max_size=3),
    st.randoms(use_true_random=False),
)
def test_any_cut_of_any_text_gives_the_same(parts: list[str], stops: list[str], random: object) -> None:
    text = "".join(parts)
    data = text.encode()
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(8)))  # type: ignore[attr-defined]
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    out, taken = streamed(pieces, tuple(stops), logprobs=0)
    want, stop = expected(text, stops)
    assert text_of(out) == want
    assert out[-1].stop == stop
    for count in range(len(out)):  # nothing left too early
        assert want.startswith(text_of(out[:count]))
    if stop is None:
        assert [t for e in out for t in e.tokens] == [100 + i for i in range(taken)]
