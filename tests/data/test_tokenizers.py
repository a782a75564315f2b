import dataclasses
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizer_files import (
    FAITHFUL,
    KINDS,
    byte_level,
    train_byte_level,
    train_sentencepiece,
    train_unigram,
    train_word_piece,
)

from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError

TEXT = "  Fellow citizens,\n\tnaïve 東京 🙂  \x00 </s> <s> add_prefix_space\r\n"
ALPHABETS = (
    "the union \n\r\t",
    "éßİıſǆ",
    "e\u0301\u0323\u0308\u3099",  # marks to combine
    "Ωжאبक้ไ東京あ한각",
    "\uf900\ufb01\u2126\u2460\uff21\U0002f800",  # compatibility characters
    "🙂👩\u200d👧\U0001f1e9\U0001f1ea\U0001f3fd\ufe0f",
    "\x00\x07\x1b\x7f\x85\xad\u2028\ufeff\ufffd\uffff",
    "\ue000\U000f0000\U0010ffff\u0378\U000e0fff",  # private and unassigned
    "▁Ġ#<>x0A",
)


@pytest.fixture(params=KINDS)
def any_tokenizer(request, tmp_path):
    return load_tokenizer(KINDS[request.param](tmp_path))


def test_text_comes_back_and_every_byte_is_counted(any_tokenizer):
    rng = random.Random(0)
    drawn = ["".join(rng.choice(rng.choice(ALPHABETS)) for _ in range(rng.randrange(40))) for _ in range(200)]
    marks = ["▁", " ▁▁▁ the▁union", "<0x0A>", "a<0x41>\n<0xE6>", "a <mark>▁<mark>", "[UNK] <unk> <s>", "Ġthe Ċ ##s</w>"]
    for text in (TEXT, "", " ", "a", " a", "東", *marks, *ALPHABETS, *drawn):
        ids = any_tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert any_tokenizer.decode(ids) == text
        assert any_tokenizer.byte_lengths[ids].sum() == len(text.encode())


def test_what_a_file_spells_is_what_its_own_decoder_says(tmp_path):
    """The bytes of tokens are read off their spelling; where a text is whole, the libraries' decoders are another source."""
    text = "the  union of 東京 🙂\r\n<s> naïve"
    for kind in KINDS.keys() - {"bytes"}:
        path = KINDS[kind](tmp_path)
        ids = load_tokenizer(path).encode(text).tolist()
        if path.endswith(".model"):
            own = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=path)
        else:
            own = pytest.importorskip("tokenizers").Tokenizer.from_file(path)
        assert own.decode(ids) == text, kind


def test_what_is_no_text_becomes_replacement_characters_as_it_does_in_a_byte_level_file(tmp_path):
    path = train_byte_level(tmp_path / "tiny.json")
    tokenizer, own = load_tokenizer(path), pytest.importorskip("tokenizers").Tokenizer.from_file(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, 301, rng.integers(1, 12)).tolist()
        assert tokenizer.decode(ids) == own.decode(ids, skip_special_tokens=False)


def test_a_text_that_comes_back_as_another_of_its_length_is_refused():
    """U+F900 and U+8C48 look alike, are the same to NFC, and have three bytes each."""
    tokenizer = load_tokenizer("bytes")
    normalizing = dataclasses.replace(tokenizer, to_ids=lambda text: tokenizer.to_ids(text.replace("\uf900", "\u8c48")))
    assert normalizing.encode("ab").tolist() == [97, 98]
    with pytest.raises(UserError, match="loses text: 'ab\uf900c' at character 2 comes back as 'ab\u8c48c'"):
        normalizing.encode("ab\uf900c")


def test_half_a_surrogate_pair_is_refused(any_tokenizer):
    """It is what bytes become that the system could not read, as in an argument or a file name."""
    with pytest.raises(UserError, match=r"'caf\\udce9!' is no Unicode text: character 3 is half a surrogate pair"):
        any_tokenizer.encode("caf\udce9!")


def test_ids_that_no_text_has_stand_for_none(any_tokenizer):
    ids = any_tokenizer.encode("ab").astype(np.int64)
    beyond = [any_tokenizer.vocab_size, any_tokenizer.vocab_size + 7, 2**32 + 97]
    unused = np.flatnonzero(any_tokenizer.byte_lengths == 0)
    assert any_tokenizer.decode(np.concatenate([beyond, ids, unused, beyond])) == "ab"
    assert any_tokenizer.decode([]) == any_tokenizer.decode(ids[:0]) == ""


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([97, -1], "id -1 is below 0"),
        ([97.5], "ids must be a row of whole numbers, got float64"),
        ([[97, 98]], r"ids must be a row of whole numbers, got int64 of shape \(1, 2\)"),
        (97, r"ids must be a row of whole numbers, got int64 of shape \(\)"),
        ([2**80], "ids must be a row of whole numbers, got object"),
    ],
)
def test_what_are_no_ids_is_refused(ids, message):
    with pytest.raises(UserError, match=message):
        load_tokenizer("bytes").decode(ids)


def test_tokens_that_a_file_adds_are_text_where_they_are_spelled_out(tmp_path):
    """`é` is byte 0xE9 in GPT-2's spelling; `<gap>` takes the spaces around it; `</think>` is the usual one."""
    added = pytest.importorskip("tokenizers").AddedToken
    file = byte_level()
    file.add_tokens(["é", added("<gap>", lstrip=True, rstrip=True), added("</think>"), "naïve"])
    file.add_special_tokens(["<s>"])
    file.save(str(tmp_path / "tiny.json"))
    tokenizer = load_tokenizer(str(tmp_path / "tiny.json"))
    for text in ("é", "caf\u00e9 naïve", "a  <gap>  b", "<gap>", "東", "a</think> <s>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("</think>")) == len(tokenizer.encode("naïve")) == 1
    assert tokenizer.byte_lengths[tokenizer.encode("naïve")].tolist() == [6]


def test_special_ids_are_distinct_never_made_from_text_and_stand_for_nothing(any_tokenizer):
    special = [any_tokenizer.bos, any_tokenizer.eos, any_tokenizer.pad]
    ids = any_tokenizer.encode(TEXT)
    assert len(set(special)) == 3
    assert not set(special) & set(ids.tolist())
    assert (any_tokenizer.byte_lengths[special] == 0).all()
    assert any_tokenizer.decode([special[0], *ids, special[1], special[2]]) == TEXT


def test_vocabulary_divides_by_eight_and_holds_every_id(any_tokenizer):
    assert any_tokenizer.vocab_size == len(any_tokenizer.byte_lengths)
    assert any_tokenizer.vocab_size % 8 == 0
    assert max(any_tokenizer.bos, any_tokenizer.eos, any_tokenizer.pad) < any_tokenizer.vocab_size


def test_byte_ids_are_the_bytes():
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.encode("é\n").tolist() == [0xC3, 0xA9, 0x0A]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.vocab_size) == (256, 257, 258, 264)
    assert tokenizer.decode([0xC3]) == "�"  # half a character, as a model may write it


def test_special_ids_of_a_file_are_used_and_missing_ones_come_after_the_vocabulary(tmp_path):
    path = train_byte_level(tmp_path / "tiny.json", ["<s>", "</s>"])
    size = len(json.loads((tmp_path / "tiny.json").read_text())["model"]["vocab"])
    tokenizer = load_tokenizer(path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 1, size)

    path = train_sentencepiece(tmp_path / "tiny.model", vocab_size=300, pad_id=3, eos_id=-1, **FAITHFUL)
    tokenizer = load_tokenizer(path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1, 300, 3)


def test_fingerprint_follows_the_content_of_the_file(tmp_path):
    first = load_tokenizer(train_byte_level(tmp_path / "a.json"))
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes())
    other = load_tokenizer(train_byte_level(tmp_path / "c.json", ["<s>"]))
    assert load_tokenizer(str(tmp_path / "b.json")).fingerprint == first.fingerprint
    assert len({first.fingerprint, other.fingerprint, load_tokenizer("bytes").fingerprint}) == 3


def normalized(path: Path, kind: str, *arguments) -> str:
    file = byte_level()
    file.normalizer = getattr(pytest.importorskip("tokenizers").normalizers, kind)(*arguments)
    file.save(str(path))
    return str(path)


LOSSY = {
    "sentencepiece without bytes": lambda folder: train_sentencepiece(folder / "lossy.model", vocab_size=60),
    "sentencepiece with NFKC": lambda folder: train_sentencepiece(
        folder / "lossy.model", vocab_size=300, **FAITHFUL | {"normalization_rule_name": "nfkc"}
    ),
    "NFKC": lambda folder: normalized(folder / "lossy.json", "NFKC"),
    "lower case": lambda folder: normalized(folder / "lossy.json", "Lowercase"),
    "spaces stripped": lambda folder: normalized(folder / "lossy.json", "Strip"),
    "controls removed": lambda folder: normalized(folder / "lossy.json", "Replace", "\x07", ""),
    "one compatibility character": lambda folder: normalized(folder / "lossy.json", "Replace", "\uf900", "\u8c48"),
    "unigram without bytes": lambda folder: train_unigram(folder / "lossy.json", byte_fallback=False),
    "bytes that were not in its corpus": lambda folder: train_byte_level(folder / "lossy.json", whole_alphabet=False),
    "words": lambda folder: train_word_piece(folder / "lossy.json"),
}


def test_a_file_that_normalizes_to_nfc_keeps_other_text_and_reads_the_rest_as_it_would(tmp_path):
    path = normalized(tmp_path / "nfc.json", "NFC")
    tokenizer, own = load_tokenizer(path), pytest.importorskip("tokenizers").Tokenizer.from_file(path)
    own.no_truncation()
    for text in ("naïve · 東京 🙂", "the union"):
        assert tokenizer.encode(text).tolist() == own.encode(text).ids
    decomposed = "e\u0301 \uf900"
    assert own.decode(own.encode(decomposed).ids) != decomposed
    assert tokenizer.decode(tokenizer.encode(decomposed)) == decomposed


@pytest.mark.parametrize("kind", LOSSY)
def test_a_tokenizer_that_loses_text_is_refused(tmp_path, kind):
    path = LOSSY[kind](tmp_path)
    with pytest.raises(
        UserError, match=r"^tokenizer 'lossy\.(model|json)' loses text: .* comes back as .*byte_fallback"
    ):
        load_tokenizer(path)


def test_a_file_without_a_vocabulary_is_refused(tmp_path):
    (tmp_path / "lossy.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    with pytest.raises(UserError, match="loses text"):
        load_tokenizer(str(tmp_path / "lossy.json"))


@pytest.mark.parametrize("spec", ["byte", "gpt2", "tokenizer.txt"])
def test_unknown_names_say_what_is_possible(spec):
    with pytest.raises(UserError, match=rf"{spec}.*'bytes'.*\.model.*\.json"):
        load_tokenizer(spec)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer file .*nowhere\.model"):
        load_tokenizer(str(tmp_path / "nowhere.model"))


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    path = train_byte_level(tmp_path / "tiny.json")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read tokenizer file .*tiny\.json': Permission denied"):
        load_tokenizer(path)


@pytest.mark.parametrize("name", ["broken.model", "broken.json"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a tokenizer" * 20)
    with pytest.raises(UserError, match=rf"{name} is not a"):
        load_tokenizer(str(tmp_path / name))


@pytest.mark.parametrize(("package", "name"), [("sentencepiece", "x.model"), ("tokenizers", "x.json")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, package, name):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install lmarch\[hf\]"):
        load_tokenizer(str(tmp_path / name))
