import io
import json
import sys

import numpy as np
import pytest

from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError

TEXT = "  Fellow citizens,\n\tnaïve 東京 🙂  \x00 </s> <s> add_prefix_space\r\n"
CORPUS = ["Fellow citizens of the  Senate\n", "and House of Representatives: 12 34, the state of the union"] * 50
FAITHFUL = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def train_sentencepiece(path, **options):
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="bpe", minloglevel=2, **options
    )
    path.write_bytes(model.getvalue())
    return str(path)


def train_byte_level(path, special_tokens=(), add_prefix_space=False):
    tokenizers = pytest.importorskip("tokenizers")
    level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = level(add_prefix_space=add_prefix_space)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=301, initial_alphabet=level.alphabet(), special_tokens=list(special_tokens), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.enable_truncation(4)  # as many published files have; a document must come through whole
    tokenizer.save(str(path))
    return str(path)


def train_llama_like(path):
    """Spelled with `▁`, byte fallback, a space put before the text and taken away again."""
    tokenizers = pytest.importorskip("tokenizers")
    parts, back = tokenizers.normalizers, tokenizers.decoders
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = parts.Sequence([parts.Prepend("▁"), parts.Replace(" ", "▁")])
    tokenizer.decoder = back.Sequence([back.Replace("▁", " "), back.ByteFallback(), back.Fuse(), back.Strip(" ", 1, 0)])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    names = ["<unk>", "<s>", "</s>", *byte_tokens]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=340, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] not in byte_tokens]
    path.write_text(json.dumps(definition))
    return str(path)


@pytest.fixture(params=["bytes", "sentencepiece", "byte-level", "byte-level with prefix space", "llama-like"])
def any_tokenizer(request, tmp_path):
    makers = {
        "bytes": lambda: "bytes",
        "sentencepiece": lambda: train_sentencepiece(tmp_path / "tiny.model", vocab_size=300, **FAITHFUL),
        "byte-level": lambda: train_byte_level(tmp_path / "tiny.json", ["<s>", "</s>"]),
        "byte-level with prefix space": lambda: train_byte_level(tmp_path / "tiny.json", add_prefix_space=True),
        "llama-like": lambda: train_llama_like(tmp_path / "tiny.json"),
    }
    return load_tokenizer(makers[request.param]())


@pytest.mark.parametrize("text", [TEXT, "", " ", "a", " a", "東"])
def test_text_comes_back_and_every_byte_is_counted(any_tokenizer, text):
    ids = any_tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert any_tokenizer.decode(ids) == text
    assert any_tokenizer.byte_lengths[ids].sum() == len(text.encode())


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


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    path = train_sentencepiece(tmp_path / "lossy.model", vocab_size=60)
    with pytest.raises(UserError, match=r"loses text.*byte_fallback"):
        load_tokenizer(path)


@pytest.mark.parametrize("spec", ["byte", "gpt2", "tokenizer.txt"])
def test_unknown_names_say_what_is_possible(spec):
    with pytest.raises(UserError, match=rf"{spec}.*'bytes'.*\.model.*\.json"):
        load_tokenizer(spec)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer file .*nowhere\.model"):
        load_tokenizer(str(tmp_path / "nowhere.model"))


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
