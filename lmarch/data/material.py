"""What synthetic tasks are made of, from a corpus."""

from lmarch.config import DataConfig
from lmarch.data.corpora import load_documents
from lmarch.data.documents import Split
from lmarch.data.tokenizers import Tokenizer
from lmarch.tasks import Material


def material(data: DataConfig, split: Split, tokenizer: Tokenizer) -> Material:
    return Material(split, tokenizer, lambda: (document.text for document in load_documents(data, split)))
