"""New tokens as text while they come: whole characters only, and nothing that may yet become a stop."""

from collections.abc import Sequence

from lmarch.data.tokenizers import Tokenizer


class Writing:
    """One row's new text. `done` once it met its end: the end-of-text id or one of the texts to stop at."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.text = ""  # what is certain by now
        self.done = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)

    def add(self, token: int) -> str:
        """What has become certain by one more token; nothing once it is done."""
        if self.done:
            return ""
        if token == self._tokenizer.eos:
            return self.end()
        self.ids.append(token)
        text = self._tokenizer.decode(self.ids)
        stops = [found for stop in self._stop if (found := text.find(stop)) >= 0]
        if stops:
            self.done = True
            return self._grow(text[: min(stops)])
        text = text.rstrip("\ufffd")  # half a character decodes to this
        held = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return self._grow(text[: len(text) - held])

    def end(self) -> str:
        """The rest, when no more tokens come."""
        if self.done:
            return ""
        self.done = True
        return self._grow(self._tokenizer.decode(self.ids))

    def _grow(self, text: str) -> str:
        new, self.text = text[len(self.text) :], text
        return new
