"""New tokens as text while they come: whole characters only, and nothing that may yet become a stop.

Linear in the tokens, and exact for every tokenizer. An id stands for the same bytes wherever it is, so a text is the UTF-8 of
its ids' bytes, joined. An incremental decoder reads these one token at a time and keeps at most the three bytes that the next
may complete to a character; what it has given out is the beginning of what all bytes decode to, whatever follows. A stop
that is yet to come begins in what is held back, which is shorter than the longest stop, so nothing before that is looked at
again.
"""

import codecs
from collections.abc import Sequence

from lmarch.data.tokenizers import Tokenizer


class Writing:
    """One row's new text. `done` once it met its end: the end-of-text id or one of the texts to stop at.

    What `add` and `end` return, joined, is `text`: `Tokenizer.decode` of all `ids`, up to the first stop. Half a character
    is U+FFFD, once it is certain that nothing completes it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.done = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._certain: list[str] = []
        self._held = ""  # the beginning of a stop, maybe

    @property
    def text(self) -> str:
        """What is certain by now."""
        return "".join(self._certain)

    def add(self, token: int) -> str:
        """What has become certain by one more token; nothing once it is done."""
        if self.done:
            return ""
        if token == self._tokenizer.eos:
            return self.end()
        self.ids.append(token)
        return self._read(self._characters.decode(self._tokenizer.decode_bytes([token])))

    def end(self) -> str:
        """The rest, when no more tokens come."""
        if self.done:
            return ""
        rest = self._read(self._characters.decode(b"", final=True))
        if not self.done:
            self.done = True
            rest += self._release(len(self._held))
        return rest

    def _read(self, new: str) -> str:
        """What `new` characters make certain: all up to a stop, or up to what may become one."""
        self._held += new
        stops = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if stops:
            self.done = True
            return self._release(min(stops))
        begun = (n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n]))
        return self._release(len(self._held) - max(begun, default=0))

    def _release(self, count: int) -> str:
        certain, self._held = self._held[:count], self._held[count:]
        self._certain.append(certain)
        return certain
