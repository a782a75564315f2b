"""Text to ids and back: bytes, SentencePiece models, Hugging Face `tokenizer.json` files.

All of them keep every byte: `decode(encode(text)) == text`, and `byte_lengths` summed over the ids of a text is its
size in UTF-8. Bits per byte rests on that, so a file that loses text is refused, and the space that some files put
before the first word is left out: a word's ids then do not depend on where a text was cut.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmarch.errors import UserError

_SAMPLE = "  The  quick\n\tbrown fox: naïve 東京 🙂, 1,234.5\r\n</s> "


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Maps text to ids in [0, vocab_size). `bos`, `eos` and `pad` are ids that no text encodes to."""

    name: str
    fingerprint: str  # twelve hex digits of what defines the mapping
    bos: int
    eos: int
    pad: int
    byte_lengths: np.ndarray = dataclasses.field(repr=False)
    """int32 [vocab_size]: the UTF-8 bytes each id stands for; 0 for special and unused ids."""
    to_ids: Callable[[str], Sequence[int] | np.ndarray] = dataclasses.field(repr=False)
    to_text: Callable[[list[int]], str] = dataclasses.field(repr=False)

    @property
    def vocab_size(self) -> int:
        return len(self.byte_lengths)

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, int32, with no special ids added; special tokens spelled out in the text are text."""
        return np.asarray(self.to_ids(text), np.int32)

    def decode(self, ids: Any) -> str:
        """The text of `ids`; special and unused ids stand for no text."""
        ids = np.asarray(ids, np.int32)
        ids = ids[ids < self.vocab_size]  # objectives have marks beyond the tokenizer's own ids
        return self.to_text(ids[self.byte_lengths[ids] > 0].tolist())

    def keeps(self, text: str, ids: np.ndarray) -> bool:
        """Do `ids` stand for as many bytes as `text` has?"""
        return int(self.byte_lengths[ids].sum()) == len(text.encode())


def load_tokenizer(spec: str) -> Tokenizer:
    """The tokenizer `bytes`, or the one in a SentencePiece `.model` or Hugging Face `tokenizer.json` file.

    A file without a bos, eos or pad token gets ids for them after its vocabulary. Vocabulary sizes are rounded up to a
    multiple of 8, with unused ids, so that embeddings can be split over devices.

    Raises:
      UserError: an unknown name, no such file, a file that cannot be read or loses text, a package not installed.
    """
    if spec == "bytes":
        return _bytes()
    path = Path(spec).expanduser()
    if path.suffix not in _READERS:
        raise UserError(f"tokenizer {spec!r} is none of: 'bytes', a SentencePiece FILE.model, a Hugging Face FILE.json")
    if not path.is_file():
        raise UserError(f"no tokenizer file {spec!r} (the current folder is {Path.cwd()})")
    tokenizer = _READERS[path.suffix](path)
    ids = tokenizer.encode(_SAMPLE)
    if tokenizer.decode(ids) != _SAMPLE or not tokenizer.keeps(_SAMPLE, ids):
        raise UserError(
            f"tokenizer {spec!r} loses text: {_SAMPLE!r} comes back as {tokenizer.decode(ids)!r}; train it without "
            "normalization and with all bytes in reach (SentencePiece: --normalization_rule_name=identity "
            "--remove_extra_whitespaces=false --byte_fallback=true; Hugging Face: byte-level)"
        )
    return tokenizer


def _bytes() -> Tokenizer:
    """Ids 0..255 are bytes, then bos, eos, pad, and five reserved for the marks of other objectives: 264 = 8 · 33."""
    lengths = np.zeros(264, np.int32)
    lengths[:256] = 1

    def to_ids(text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8)

    def to_text(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")  # a model may write half a character

    return Tokenizer("bytes", _sha(b"bytes"), 256, 257, 258, lengths, to_ids, to_text)


def _sentencepiece(path: Path) -> Tokenizer:
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ImportError as error:
        raise _not_installed(path, error) from error
    content = path.read_bytes()
    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]
        model.normalizer_spec.add_dummy_prefix = False
        processor = SentencePieceProcessor(model_proto=model.SerializeToString())
    except (DecodeError, RuntimeError) as error:
        raise UserError(f"{path} is not a SentencePiece model") from error

    def length(piece: int) -> int:
        if processor.is_control(piece) or processor.is_unknown(piece) or processor.is_unused(piece):
            return 0
        return 1 if processor.is_byte(piece) else _spelled_length(processor.id_to_piece(piece))

    lengths = [length(piece) for piece in range(processor.get_piece_size())]
    ids = (processor.bos_id(), processor.eos_id(), processor.pad_id())  # -1: none
    return _with_special_ids(path.name, content, lengths, ids, processor.encode, processor.decode)


def _hugging_face(path: Path) -> Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise _not_installed(path, error) from error
    content = path.read_bytes()
    try:
        definition = json.loads(content, object_hook=_without_prefix_space)
        decoders = json.dumps(definition.get("decoder"))
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # `tokenizers` raises nothing more precise
        raise UserError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a special token spelled out in a document is text
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_tokens_decoder()

    def length(token: str, token_id: int) -> int:
        if token_id in added:
            return 0 if added[token_id].special else len(token.encode())
        return len(token) if '"ByteLevel"' in decoders else _spelled_length(token)

    lengths = [0] * (max(vocabulary.values()) + 1)
    for token, token_id in vocabulary.items():
        lengths[token_id] = length(token, token_id)
    special = {token.content: token_id for token_id, token in added.items() if token.special}
    ids = [next((special[name] for name in names if name in special), -1) for names in _SPECIAL_NAMES]

    def to_ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return _with_special_ids(path.name, content, lengths, ids, to_ids, tokenizer.decode)


_READERS: dict[str, Callable[[Path], Tokenizer]] = {".model": _sentencepiece, ".json": _hugging_face}
_SPECIAL_NAMES = (  # a tokenizer.json does not say which token is which: the usual spellings of bos, eos and pad
    ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>"),
    ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
)


def _without_prefix_space(node: dict[str, Any]) -> dict[str, Any]:
    """One component of a tokenizer.json, told to put no space before a text and to take none away from it."""
    neutral = {"add_prefix_space": False, "prepend_scheme": "never", "prepend": "", "start": 0}
    if isinstance(node.get("type"), str):  # else not a component: a vocabulary may hold these words too
        node.update((key, value) for key, value in neutral.items() if key in node)
    return node


def _spelled_length(piece: str) -> int:
    """UTF-8 bytes of a piece in SentencePiece spelling: `▁` is a space, `<0x0A>` a byte."""
    if len(piece) == 6 and piece.startswith("<0x"):
        return 1
    return len(piece.replace("▁", " ").encode())


def _with_special_ids(
    name: str,
    content: bytes,
    lengths: list[int],
    ids: Sequence[int],
    to_ids: Callable[[str], Sequence[int]],
    to_text: Callable[[list[int]], str],
) -> Tokenizer:
    """A Tokenizer whose missing (-1) bos, eos and pad come after the vocabulary of `lengths`."""
    missing = iter(range(len(lengths), len(lengths) + 3))
    bos, eos, pad = (next(missing) if token < 0 else token for token in ids)
    byte_lengths = np.zeros(-(-max(len(lengths), bos + 1, eos + 1, pad + 1) // 8) * 8, np.int32)
    byte_lengths[: len(lengths)] = lengths
    return Tokenizer(name, _sha(content), bos, eos, pad, byte_lengths, to_ids, to_text)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _not_installed(path: Path, error: ImportError) -> UserError:
    return UserError(f"tokenizer {str(path)!r} needs a package that is not installed ({error}): pip install lmarch[hf]")
