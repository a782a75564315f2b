"""Text while it comes: nothing is shown that a later token could take back, and nothing is lost."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizer_files import KINDS, train_byte_level, train_llama_like

from lmarch.data.tokenizers import Tokenizer, load_tokenizer
from lmarch.generation.writing import Writing

BYTES = load_tokenizer("bytes")


def ids_of(text: str) -> list[int]:
    return BYTES.encode(text).tolist()


def pieces(ids: list[int], stop: tuple[str, ...] = (), *, end: bool = True) -> tuple[list[str], Writing]:
    """Return what each token made certain, the rest last, and the finished writing."""
    writing = Writing(BYTES, stop)
    shown = [writing.add(token) for token in ids]
    if end:
        shown.append(writing.end())
    assert "".join(shown) == writing.text
    return shown, writing


def test_every_token_of_plain_text_appears_at_once() -> None:
    shown, writing = pieces(ids_of("Fellow citizens"))
    assert shown == [*"Fellow citizens", ""]
    assert writing.ids == ids_of("Fellow citizens")
    assert writing.done


@pytest.mark.parametrize("character", ["é", "€", "東", "🙂"])
def test_a_character_of_several_bytes_appears_whole(character: str) -> None:
    shown, _ = pieces(ids_of(f"a{character}b"))
    size = len(character.encode())
    assert shown == ["a", *[""] * (size - 1), character, "b", ""]


def test_half_a_character_is_shown_as_such_when_nothing_completes_it() -> None:
    assert pieces([97, 0xE6, 0x9D])[0] == ["a", "", "", "\ufffd"]  # the end came
    shown, _ = pieces([97, 0xE6, 0x9D, 98])  # another character came
    assert shown == ["a", "", "", "\ufffdb", ""]
    assert pieces([0xF0, 0x9F, *ids_of("é")])[1].text == "\ufffdé"


def test_the_end_of_text_id_ends_a_text_and_is_no_part_of_it() -> None:
    writing = Writing(BYTES)
    shown = [writing.add(token) for token in [*ids_of("ab"), BYTES.eos, *ids_of("cd")]]
    assert shown == ["a", "b", "", "", ""]
    assert (writing.text, writing.ids, writing.done) == ("ab", ids_of("ab"), True)
    assert writing.end() == ""


def test_the_end_of_text_releases_what_was_held_back() -> None:
    writing = Writing(BYTES, ("\n\nEND",))
    assert [writing.add(token) for token in [*ids_of("a\n\nEN"), 0xC3]] == ["a", "", "", "", "", ""]
    assert writing.add(BYTES.eos) == "\n\nEN\ufffd"
    assert not Writing(BYTES, ("x",)).done


def test_special_and_unused_ids_stand_for_no_text() -> None:
    shown, writing = pieces([97, BYTES.bos, BYTES.pad, 263, 98])
    assert shown == ["a", "", "", "", "b", ""]
    assert writing.ids == [97, BYTES.bos, BYTES.pad, 263, 98]


def test_a_text_ends_before_a_stop_that_spans_tokens_none_of_which_is_shown() -> None:
    writing = Writing(BYTES, ("END",))
    assert [writing.add(token) for token in ids_of("to END it")] == ["t", "o", " ", *[""] * 6]
    assert writing.done
    assert writing.text == "to "
    assert writing.end() == ""


def test_a_stop_within_one_token_ends_the_text_in_the_middle_of_it() -> None:
    """A tokenizer whose ids are words."""
    words = np.array([b"one. ", b"two\n\nUser", b": three"], object)
    tokenizer = dataclasses.replace(BYTES, token_bytes=words)
    writing = Writing(tokenizer, ("\n\nUser:", "e. tw"))
    assert [writing.add(token) for token in (0, 1)] == ["on", ""]
    assert (writing.text, writing.done) == ("on", True)
    writing = Writing(tokenizer, ("\n\nUser:",))
    assert [writing.add(token) for token in (0, 1, 2)] == ["one. ", "two", ""]
    assert (writing.text, writing.done) == ("one. two", True)


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        # The beginning of a stop is held back, and released when it goes on otherwise.
        ("aab", ("ab",), ["", "a", ""]),
        ("xaxabx", ("xab",), ["", "", "xa", "", "", ""]),
        ("aaab", ("aab",), ["", "", "a", ""]),
        ("ababac", ("abac",), ["", "", "", "ab", "", ""]),
        ("nonsense", ("nonstop",), ["", "", "", "", "nonse", "", "ns", "e"]),
        # Of several, all beginnings count.
        ("abx", ("abc", "bd"), ["", "", "abx"]),
        ("abbd", ("abc", "bd"), ["", "", "ab", ""]),
        # A stop of characters of several bytes, and one after half a character.
        ("né!", ("é?",), ["n", "", "", "é!"]),
        ("né?", ("é?",), ["n", "", "", ""]),
    ],
)
def test_what_may_yet_become_a_stop_is_held_back(text: str, stop: tuple[str, ...], shown: list[str]) -> None:
    writing = Writing(BYTES, stop)
    found = [writing.add(token) for token in ids_of(text)]
    assert found == shown
    cut = min((text.find(one) for one in stop if one in text), default=len(text))
    writing.end()
    assert writing.text == text[:cut]


def test_the_stop_that_is_complete_first_wins_and_of_those_complete_at_once_the_one_that_begins_first() -> None:
    assert pieces(ids_of("xabcd"), ("abcd", "bc"))[1].text == "xa"
    assert pieces(ids_of("xabcd"), ("bc", "abc"))[1].text == "x"
    assert pieces(ids_of("xabcd"), ("abc", "bc"))[1].text == "x"


def test_pieces_joined_are_the_text_up_to_its_first_stop_whatever_it_is() -> None:
    """Against a search in the whole text; few letters, so that stops begin, overlap and fail all the time."""
    rng = random.Random(0)
    stopped = 0
    for _ in range(400):
        text = "".join(rng.choice("ab€") for _ in range(rng.randrange(1, 24)))
        stop = tuple("".join(rng.choice("ab€") for _ in range(rng.randrange(2, 6))) for _ in range(rng.randrange(3)))
        _, writing = pieces(ids_of(text), stop)
        ends = {one: text.find(one) + len(one) for one in stop if one in text}
        first = min(ends.values(), default=None)
        begins = [end - len(one) for one, end in ends.items() if end == first]
        assert writing.text == text[: min(begins, default=None)], (text, stop)
        stopped += bool(ends)
    assert 50 < stopped < 350


def test_a_stop_that_only_the_end_completes_ends_a_text() -> None:
    shown, writing = pieces([97, 98, 0xE6], ("b\ufffd",))
    assert (shown, writing.text) == (["a", "", "", ""], "a")
    assert pieces([97, 98, 0xE6, 99], ("b\ufffd",))[1].text == "a"


# Of tokenizers of every kind.


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    return load_tokenizer(KINDS[request.param](tmp_path_factory.mktemp("tokenizer")))


def written(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """Ids as a model may write them: text, text that breaks off in the middle of characters, and anything at all."""
    ids: list[int] = []
    for _ in range(rng.randrange(1, 8)):
        text = "".join(rng.choice("the \n▁é東🙂\ufffd\u0301\x00ж<") for _ in range(rng.randrange(1, 6)))
        part = tokenizer.encode(text).tolist()
        anything = [rng.randrange(tokenizer.vocab_size + 3) for _ in range(rng.randrange(4))]
        ids += rng.choice((part, part[: rng.randrange(len(part) + 1)], part[1:], anything))
    return [token for token in ids if token != tokenizer.eos]


def test_what_is_shown_is_never_taken_back_and_is_all_of_the_text(tokenizer: Tokenizer) -> None:
    rng = random.Random(2)
    halves = 0
    for _ in range(300):
        ids = written(tokenizer, rng)
        writing, shown, whole = Writing(tokenizer), "", tokenizer.decode(ids)
        for number, token in enumerate(ids, start=1):
            shown += writing.add(token)
            assert whole.startswith(shown)
            # All but the beginning of a character; of one that nothing completes (0xED 0xA0) this may be two for the decoder.
            assert len(tokenizer.decode(ids[:number])) - len(shown) <= 2
        assert shown + writing.end() == writing.text == whole
        halves += "\ufffd" in whole
    assert halves > 100


def test_with_stops_what_is_shown_is_all_of_the_text_before_the_first(tokenizer: Tokenizer) -> None:
    rng = random.Random(3)
    stopped = 0
    for _ in range(300):
        ids = written(tokenizer, rng)
        whole = tokenizer.decode(ids)
        start = rng.randrange(len(whole) + 1)
        stop = whole[start : start + rng.randrange(1, 5)] + rng.choice(("", "", "e", "\ufffd")) or "\n"
        writing = Writing(tokenizer, (stop,))
        shown = [*map(writing.add, ids), writing.end()]
        assert "".join(shown) == writing.text == whole.split(stop)[0]
        stopped += stop in whole
    assert 100 < stopped < 290


def test_line_ends_before_half_a_character_are_shown_once(tmp_path: Path) -> None:
    """Decoders of runs of byte tokens make a whole run into replacement characters when its end is half a character."""
    tokenizer = load_tokenizer(train_llama_like(tmp_path / "tiny.json"))
    ids = [*tokenizer.encode("a\n\n東").tolist(), *tokenizer.encode("\n東").tolist()[:-1]]
    writing = Writing(tokenizer)
    assert [text for text in map(writing.add, ids) if text] == ["a", "\n", "\n", "東", "\n"]
    assert writing.end() == "\ufffd"


def test_a_replacement_character_that_was_written_is_no_half_a_character() -> None:
    assert pieces(ids_of("a\ufffd"))[0] == ["a", "", "", "\ufffd", ""]


@pytest.mark.parametrize("stop", [(), ("\n\nUser:", "the end")])
def test_every_id_is_decoded_once(tmp_path: Path, monkeypatch, stop: tuple[str, ...]) -> None:
    """Else a long text takes the square of its length."""
    tokenizer = load_tokenizer(train_byte_level(tmp_path / "tiny.json"))
    ids = tokenizer.encode("Fellow citizens, the 東京 🙂 union\n" * 50)
    decoded: list[int] = []
    decode_bytes = Tokenizer.decode_bytes

    def counted(self: Tokenizer, ids: list[int]) -> bytes:
        decoded.extend(ids)
        return decode_bytes(self, ids)

    monkeypatch.setattr(Tokenizer, "decode_bytes", counted)
    writing = Writing(tokenizer, stop)
    for token in ids:
        writing.add(token)
    writing.end()
    assert decoded == ids.tolist()
