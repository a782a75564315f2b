"""Documents to tokens, in one process or in several; what comes out is the same, and in the same order."""

import collections
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from lmarch.data.documents import Document
from lmarch.data.tokenizers import Tokenizer, load_tokenizer
from lmarch.errors import UserError

CHUNK = 2**20  # characters of text that a process is given at once
_in_worker: Tokenizer  # of a process that `tokenized` started


def dtype_of(tokenizer: Tokenizer) -> type[np.unsignedinteger]:
    return np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32


def tokenized(documents: Iterable[Document], tokenizer: Tokenizer, processes: int = 1) -> Iterator[np.ndarray]:
    """`[bos] text [eos]` of each document, in order; a few chunks of documents are in memory at a time.

    Raises:
      UserError: text that the tokenizer loses, a process that died.
    """
    if processes == 1:
        for document in documents:
            yield _tokens(document, tokenizer)
        return
    # Forked processes could inherit locks of JAX's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (tokenizer.spec, tokenizer.fingerprint)) as pool:
        pending: collections.deque[Future[list[np.ndarray]]] = collections.deque()
        try:
            for chunk in _chunks(documents):
                pending.append(pool.submit(_tokenize, chunk))
                if len(pending) > 2 * processes:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"one of the {processes} processes that tokenize died (out of memory, or started by a script that does not "
                "ask whether it is `__main__`): give fewer with "
                "--config.data.pack_processes=N"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _tokens(document: Document, tokenizer: Tokenizer) -> np.ndarray:
    try:
        ids = tokenizer.encode(document.text)
    except UserError as error:
        raise UserError(f"document {document.name!r}: {error}; or leave it out") from error
    tokens = np.empty(len(ids) + 2, dtype_of(tokenizer))
    tokens[0], tokens[1:-1], tokens[-1] = tokenizer.bos, ids, tokenizer.eos
    return tokens


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _start(spec: str, fingerprint: str) -> None:
    global _in_worker
    _in_worker = load_tokenizer(spec)
    assert _in_worker.fingerprint == fingerprint, f"{spec} is not the tokenizer that rows are packed by"


def _tokenize(chunk: list[Document]) -> list[np.ndarray]:
    return [_tokens(document, _in_worker) for document in chunk]
