"""Text to ids and back: bytes, SentencePiece models, Hugging Face `tokenizer.json` files.

An id stands for the same bytes wherever it is, and a text is those of its ids, joined. Bits per byte rests on that, and so
does writing: what ids say is what the bytes so far say, and no later id takes any of it back. A file is read for how it cuts
a text and for the bytes of its tokens. Its own decoder is not asked, since several look at an id's neighbours.

`decode(encode(text)) == text`, for `encode` refuses what does not come back, and so does `load_tokenizer` with characters of
all kinds. The space that some files put before the first word is left out: a word's ids then do not depend on where a text
was cut.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmarch.config import DataConfig
from lmarch.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Maps text to ids in [0, vocab_size) and back. `bos`, `eos` and `pad` are ids that no text encodes to."""

    name: str
    fingerprint: str  # twelve hex digits of what defines the mapping
    bos: int
    eos: int
    pad: int
    token_bytes: np.ndarray = dataclasses.field(repr=False)
    """`bytes` [vocab_size]: the UTF-8 each id stands for, maybe half a character; none for special and unused ids."""
    to_ids: Callable[[str], Sequence[int] | np.ndarray] = dataclasses.field(repr=False)
    spec: str = "bytes"  # what another process loads it by

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @functools.cached_property
    def byte_lengths(self) -> np.ndarray:
        """int32 [vocab_size]: how many bytes each id stands for."""
        return np.array([len(content) for content in self.token_bytes], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, int32 [n], with no special ids added; special tokens spelled out in the text are text.

        Raises:
          UserError: the ids would not come back as `text`, or it has no UTF-8 because half a surrogate pair is in it.
        """
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{_around(text, error.start)!r} is no Unicode text: character {error.start} is half a surrogate pair, "
                "which is what bytes that are not UTF-8 are read as; convert it to UTF-8"
            ) from error
        ids = np.asarray(self.to_ids(text), np.int32)
        if self.decode_bytes(ids) != content:
            back = self.decode(ids)
            pairs = enumerate(zip(text, back, strict=False))
            place = next((n for n, (one, other) in pairs if one != other), min(len(text), len(back)))
            raise UserError(
                f"tokenizer {self.name!r} loses text: {_around(text, place)!r} at character {place} comes back as "
                f"{_around(back, place)!r}; train it without normalization and with all bytes in reach (SentencePiece: "
                "--normalization_rule_name=identity --remove_extra_whitespaces=false --byte_fallback=true; Hugging Face: "
                "byte-level and no normalizer)"
            )
        return ids

    def decode(self, ids: Any) -> str:
        """The text of ids [n]: their bytes as UTF-8. What is none, as half a character that a model wrote, is U+FFFD.

        One for each longest part of a character, as Unicode recommends and Python does, whatever a file's own decoder
        makes of it.

        Raises:
          UserError: what `decode_bytes` raises.
        """
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Any) -> bytes:
        """The bytes of ids [n]. Special and unused ids stand for nothing, and so do those beyond the vocabulary.

        Raises:
          UserError: not a row of whole numbers from 0 on.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise UserError(f"ids must be a row of whole numbers, got {ids.dtype} of shape {ids.shape}")
        if ids.size and ids.min() < 0:
            raise UserError(f"id {ids.min()} is below 0: leave out what marks the absence of a token")
        known = ids[ids < self.vocab_size].astype(np.intp)  # objectives have marks beyond the tokenizer's own ids
        return b"".join(self.token_bytes[known].tolist())


def _around(text: str, place: int) -> str:
    return text[max(place - 10, 0) : place + 10]


def tokenizer_of(data: DataConfig) -> Tokenizer:
    """The tokenizer that a config names; a relative name of a file begins at its `folder`."""
    return load_tokenizer(data.tokenizer if data.tokenizer == "bytes" else str(tokenizer_file(data)))


def tokenizer_file(data: DataConfig) -> Path:
    """The path of the file that a config names."""
    return Path(data.folder or "", Path(data.tokenizer).expanduser())


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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read tokenizer file {spec!r}: {error.strerror}") from error
    return dataclasses.replace(_READERS[path.suffix](path, content), spec=str(path.absolute()))


def _bytes() -> Tokenizer:
    """Ids 0..255 are bytes, then bos, eos, pad, and five reserved for the marks of other objectives: 264 = 8 · 33."""
    token_bytes = np.array([bytes([byte]) for byte in range(256)] + [b""] * 8, object)

    def to_ids(text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8)

    return Tokenizer("bytes", _sha(b"bytes"), 256, 257, 258, token_bytes, to_ids)


def _sentencepiece(path: Path, content: bytes) -> Tokenizer:
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ImportError as error:
        raise _not_installed(path, error) from error
    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]
        model.normalizer_spec.add_dummy_prefix = False
        processor = SentencePieceProcessor(model_proto=model.SerializeToString())
    except (DecodeError, RuntimeError) as error:
        raise UserError(f"{path} is not a SentencePiece model") from error
    kinds = model.SentencePiece
    silent = {kinds.CONTROL, kinds.UNKNOWN, kinds.UNUSED}
    token_bytes = [b"" if piece.type in silent else _unescaped(piece.piece) for piece in model.pieces]
    marks = [piece.piece for piece in model.pieces if piece.type in silent | {kinds.USER_DEFINED}]
    ids = (processor.bos_id(), processor.eos_id(), processor.pad_id())  # -1: none
    return _from_file(path.name, content, token_bytes, ids, processor.encode, marks)


def _hugging_face(path: Path, content: bytes) -> Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise _not_installed(path, error) from error
    try:
        definition = json.loads(content, object_hook=_neutral)
        spelled = _byte_level if '"ByteLevel"' in json.dumps(definition.get("decoder")) else _unescaped
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # `tokenizers` raises nothing more precise
        raise UserError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a special token spelled out in a document is text
    own, added = tokenizer.get_vocab(with_added_tokens=False), tokenizer.get_added_tokens_decoder()
    token_bytes = [b""] * (max([*own.values(), *added], default=-1) + 1)
    for token, token_id in own.items():
        token_bytes[token_id] = spelled(token)
    for token_id, found in added.items():
        if found.special or found.content not in own:
            token_bytes[token_id] = b"" if found.special else found.content.encode()
    special = {found.content: token_id for token_id, found in added.items() if found.special}
    ids = [next((special[name] for name in names if name in special), -1) for names in _SPECIAL_NAMES]

    def to_ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return _from_file(path.name, content, token_bytes, ids, to_ids, [found.content for found in added.values()])


_READERS: dict[str, Callable[[Path, bytes], Tokenizer]] = {".model": _sentencepiece, ".json": _hugging_face}
_SPECIAL_NAMES = (  # a tokenizer.json does not say which token is which: the usual spellings of bos, eos and pad
    ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>"),
    ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
)


def _neutral(node: dict[str, Any]) -> dict[str, Any]:
    """One component of a tokenizer.json, told to put no space before a text and to leave its characters as they are.

    Qwen and GPT-NeoX normalize to NFC, which nearly all text is already: the ids of that are theirs.
    """
    if node.get("type") == "NFC":
        return {"type": "Sequence", "normalizers": []}
    neutral = {"add_prefix_space": False, "prepend_scheme": "never", "prepend": ""}
    if isinstance(node.get("type"), str):  # else not a component: a vocabulary may hold these words too
        node.update((key, value) for key, value in neutral.items() if key in node)
    return node


def _unescaped(token: str) -> bytes:
    """The bytes of a token as SentencePiece escapes them: `▁` is a space, `<0x0A>` a byte."""
    return _ESCAPED_BYTES.get(token) or token.replace("▁", " ").encode()


def _byte_level(token: str) -> bytes:
    """The bytes of a token as GPT-2 spells them, a character each; a token that has others stands for itself."""
    try:
        return bytes(_BYTE_LEVEL[character] for character in token)
    except KeyError:
        return token.encode()


_ESCAPED_BYTES = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # GPT-2 writes these as they are in Latin-1
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]  # and these as the characters from U+0100 on
_BYTE_LEVEL = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + n): byte for n, byte in enumerate(_OTHERS)}


def _from_file(
    name: str,
    content: bytes,
    token_bytes: list[bytes],
    special: Sequence[int],
    to_ids: Callable[[str], Sequence[int]],
    marks: Iterable[str],
) -> Tokenizer:
    """A Tokenizer that was seen to keep characters of all kinds.

    Args:
      token_bytes: what each id of the vocabulary stands for.
      special: the ids of bos, eos and pad; those that are missing (-1) come after the vocabulary.
      marks: what the file looks for in a text, besides its escapes.

    Raises:
      UserError: what `Tokenizer.encode` raises.
    """
    missing = iter(range(len(token_bytes), len(token_bytes) + 3))
    bos, eos, pad = (next(missing) if token < 0 else token for token in special)
    size = -(-max(len(token_bytes), bos + 1, eos + 1, pad + 1) // 8) * 8
    filled = np.array([*token_bytes, *[b""] * (size - len(token_bytes))], object)
    marks = ["▁", *_ESCAPED_BYTES, *marks]
    made = _with_marks_in_bytes(Tokenizer(name, _sha(content), bos, eos, pad, filled, to_ids), marks)
    for text in (_CHARACTERS, "  ".join(marks)):
        made.encode(text)
    return made


_SAMPLED = (
    *range(0x800),  # alphabets, marks to combine, controls; in UTF-8 all bytes but those that begin longer characters
    *range(0x800, 0xD800, 397),  # more scripts, unassigned characters
    *range(0xE000, 0x110000, 997),  # private and unassigned ones, emoji
    *(0x1100, 0x1161, 0x1E9B, 0x200B, 0x200D, 0x2028, 0x2126, 0x2460, 0x3000, 0x30AB, 0x3099, 0xAC00),  # and what some
    *(0xF900, 0xFB01, 0xFE0F, 0xFEFF, 0xFF21, 0xFFFD, 0xFFFF, 0x1F1E9, 0x1F1EA, 0x1F3FD, 0x1F469, 0x2F800),  # rewrite
)
_CHARACTERS = "  A  \t\r\n" + "".join(map(chr, _SAMPLED))


def _with_marks_in_bytes(tokenizer: Tokenizer, marks: Iterable[str]) -> Tokenizer:
    """The same, but it spells byte by byte the marks that it would take for something else.

    A file that writes a space as `▁` takes one in a text for a space. Others take `<0x0A>` in a text for a byte, or the
    spaces around an added token for a part of it. Marks that have bytes which are no id of their own are left as they are.
    """
    byte_ids = {content[0]: token for token, content in enumerate(tokenizer.token_bytes) if len(content) == 1}

    def comes_back(text: str) -> bool:
        return tokenizer.decode_bytes(tokenizer.to_ids(text)) == text.encode()

    lost = [mark for mark in marks if byte_ids.keys() >= set(mark.encode()) and not comes_back(f"a  {mark}  a")]
    if not lost:
        return tokenizer
    alternatives = re.compile("|".join(map(re.escape, lost)))

    def to_ids(text: str) -> list[int]:
        ids: list[int] = []
        end = 0
        for found in alternatives.finditer(text):
            ids.extend(tokenizer.to_ids(text[end : found.start()]))
            ids.extend(byte_ids[byte] for byte in found[0].encode())
            end = found.end()
        ids.extend(tokenizer.to_ids(text[end:]))
        return ids

    return dataclasses.replace(tokenizer, to_ids=to_ids)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _not_installed(path: Path, error: ImportError) -> UserError:
    return UserError(f"tokenizer {str(path)!r} needs a package that is not installed ({error}): pip install lmarch[hf]")
