"""Text while it comes: nothing is shown that a later token could take back, and nothing is lost."""

import random

import pytest

from lmarch.data.tokenizers import load_tokenizer
from lmarch.generation.writing import Writing

BYTES = load_tokenizer("bytes")


def ids_of(text: str) -> list[int]:
    return BYTES.encode(text).tolist()


def pieces(ids: list[int], stop: tuple[str, ...] = (), *, end: bool = True) -> tuple[list[str], Writing]:
    """What each token made certain, the rest last, and the finished writing."""
    writing = Writing(BYTES, stop)
    made = [writing.add(token) for token in ids]
    if end:
        made.append(writing.end())
    assert "".join(made) == writing.text
    return made, writing


def test_every_token_of_plain_text_appears_at_once() -> None:
    made, writing = pieces(ids_of("Fellow citizens"))
    assert made == [*"Fellow citizens", ""]
    assert writing.ids == ids_of("Fellow citizens")
    assert writing.done


@pytest.mark.parametrize("character", ["é", "€", "東", "🙂"])
def test_a_character_of_several_bytes_appears_whole(character: str) -> None:
    made, _ = pieces(ids_of(f"a{character}b"))
    size = len(character.encode())
    assert made == ["a", *[""] * (size - 1), character, "b", ""]


def test_half_a_character_is_shown_as_such_when_nothing_completes_it() -> None:
    assert pieces([97, 0xE6, 0x9D])[0] == ["a", "", "", "\ufffd"]  # the end came
    made, _ = pieces([97, 0xE6, 0x9D, 98])  # another character came
    assert made == ["a", "", "", "\ufffdb", ""]
    assert pieces([0xF0, 0x9F, *ids_of("é")])[1].text == "\ufffdé"


def test_the_end_of_text_id_ends_a_text_and_is_no_part_of_it() -> None:
    writing = Writing(BYTES)
    made = [writing.add(token) for token in [*ids_of("ab"), BYTES.eos, *ids_of("cd")]]
    assert made == ["a", "b", "", "", ""]
    assert (writing.text, writing.ids, writing.done) == ("ab", ids_of("ab"), True)
    assert writing.end() == ""


def test_the_end_of_text_releases_what_was_held_back() -> None:
    writing = Writing(BYTES, ("\n\nEND",))
    assert [writing.add(token) for token in [*ids_of("a\n\nEN"), 0xC3]] == ["a", "", "", "", "", ""]
    assert writing.add(BYTES.eos) == "\n\nEN\ufffd"
    assert not Writing(BYTES, ("x",)).done


def test_special_and_unused_ids_stand_for_no_text() -> None:
    made, writing = pieces([97, BYTES.bos, BYTES.pad, 263, 98])
    assert made == ["a", "", "", "", "b", ""]
    assert writing.ids == [97, BYTES.bos, BYTES.pad, 263, 98]


def test_a_text_ends_before_a_stop_that_spans_tokens_none_of_which_is_shown() -> None:
    writing = Writing(BYTES, ("END",))
    assert [writing.add(token) for token in ids_of("to END it")] == ["t", "o", " ", *[""] * 6]
    assert writing.done
    assert writing.text == "to "
    assert writing.end() == ""


def test_a_stop_within_one_token_ends_the_text_in_the_middle_of_it() -> None:
    """A tokenizer whose ids are words."""
    words = ["one. ", "two\n\nUser", ": three"]

    class Words:
        eos = -1

        def decode(self, ids: list[int]) -> str:
            return "".join(words[number] for number in ids)

    writing = Writing(Words(), ("\n\nUser:", "e. tw"))
    assert [writing.add(token) for token in (0, 1)] == ["on", ""]
    assert (writing.text, writing.done) == ("on", True)
    writing = Writing(Words(), ("\n\nUser:",))
    assert [writing.add(token) for token in (0, 1, 2)] == ["one. ", "two", ""]
    assert (writing.text, writing.done) == ("one. two", True)


@pytest.mark.parametrize(
    ("text", "stop", "made"),
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
def test_what_may_yet_become_a_stop_is_held_back(text: str, stop: tuple[str, ...], made: list[str]) -> None:
    writing = Writing(BYTES, stop)
    found = [writing.add(token) for token in ids_of(text)]
    assert found == made
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


def test_any_bytes_at_all_lose_nothing() -> None:
    """A model may write what is no text; the pieces are still those of the whole, decoded at once."""
    rng = random.Random(1)
    for _ in range(200):
        ids = [rng.choice((97, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xFF, BYTES.pad)) for _ in range(rng.randrange(1, 12))]
        assert pieces(ids)[1].text == BYTES.decode(ids)
