"""Tiny tokenizer files of the kinds that there are, trained in a moment."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

CORPUS = ["Fellow citizens of the  Senate\n", "and House of Representatives: 12 34, the state of the union"] * 50
FAITHFUL = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train_sentencepiece(path: Path, **options) -> str:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    options = {"model_type": "bpe", "hard_vocab_limit": False, "minloglevel": 2} | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, **options)
    path.write_bytes(model.getvalue())
    return str(path)


def byte_level(special_tokens: Sequence[str] = (), *, add_prefix_space: bool = False, whole_alphabet: bool = True):
    """Spelled as GPT-2 does it; a `tokenizers.Tokenizer`, to be changed and saved."""
    tokenizers = pytest.importorskip("tokenizers")
    level = tokenizers.pre_tokenizers.ByteLevel
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = level(add_prefix_space=add_prefix_space)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = level.alphabet() if whole_alphabet else []
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=301, initial_alphabet=alphabet, special_tokens=list(special_tokens), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.enable_truncation(4)  # as many published files have; a document must come through whole
    return made


def train_byte_level(path: Path, special_tokens: Sequence[str] = (), **options) -> str:
    byte_level(special_tokens, **options).save(str(path))
    return str(path)


def train_llama_like(path: Path) -> str:
    """Spelled with `▁`, byte fallback, a space put before the text and taken away again."""
    tokenizers = pytest.importorskip("tokenizers")
    parts, back = tokenizers.normalizers, tokenizers.decoders
    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = parts.Sequence([parts.Prepend("▁"), parts.Replace(" ", "▁")])
    made.decoder = back.Sequence([back.Replace("▁", " "), back.ByteFallback(), back.Fuse(), back.Strip(" ", 1, 0)])
    names = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=340, special_tokens=names, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    definition = json.loads(made.to_str())
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] not in BYTES]
    path.write_text(json.dumps(definition))
    return str(path)


def unigram(*, byte_fallback: bool):
    """Spelled by Metaspace, of the likeliest pieces; where it has byte tokens it takes `<0x0A>` in a text for one."""
    tokenizers = pytest.importorskip("tokenizers")
    pieces = [("<unk>", 0.0), *((token, 0.0) for token in BYTES if byte_fallback)]
    pieces += [(piece, -2.0 - number / 10) for number, piece in enumerate(["▁", *"aehtin", "▁the", "▁in", "▁▁"])]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0, byte_fallback=byte_fallback))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    back = tokenizers.decoders
    made.decoder = back.Sequence([back.ByteFallback(), back.Metaspace(prepend_scheme="always")])
    return made


def train_unigram(path: Path, *, byte_fallback: bool = True) -> str:
    unigram(byte_fallback=byte_fallback).save(str(path))
    return str(path)


def train_word_piece(path: Path) -> str:
    """Words and their `##` endings, as BERT has them: what is between words is lost."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.decoder = tokenizers.decoders.WordPiece()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    made.save(str(path))
    return str(path)


KINDS: dict[str, Callable[[Path], str]] = {
    "bytes": lambda folder: "bytes",
    "sentencepiece": lambda folder: train_sentencepiece(folder / "tiny.model", vocab_size=300, **FAITHFUL),
    "sentencepiece unigram": lambda folder: train_sentencepiece(
        folder / "tiny.model", vocab_size=300, model_type="unigram", user_defined_symbols=["<mark>", "▁▁▁"], **FAITHFUL
    ),
    "byte-level": lambda folder: train_byte_level(folder / "tiny.json", ["<s>", "</s>"]),
    "byte-level with prefix space": lambda folder: train_byte_level(folder / "tiny.json", add_prefix_space=True),
    "llama-like": lambda folder: train_llama_like(folder / "tiny.json"),
    "unigram with metaspace": lambda folder: train_unigram(folder / "tiny.json"),
}
"""Those that keep text, by what they are like: each writes its file into a folder and returns what to load."""
