import contextlib
import resource

import pytest

from lmarch.config import DataConfig
from lmarch.data.tokenizers import load_tokenizer


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache for the tests that read a built-in corpus, so that it is prepared once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def sotu(shared_cache):
    return DataConfig(corpus="sotu", cache_dir=str(shared_cache))


@pytest.fixture
def byte_tokenizer():
    return load_tokenizer("bytes")


@pytest.fixture
def own_text(tmp_path):
    """Writes 40 short documents of unequal length and returns a config that reads them."""
    folder = tmp_path / "text"
    folder.mkdir()
    for n in range(40):
        (folder / f"{n:02}.txt").write_text(f"{n}: " + "naïve · " * (n % 7) + "the end\n" * (1 + n % 5))
    return DataConfig(corpus=f"text:{folder}/*.txt", cache_dir=str(tmp_path / "cache"))


@contextlib.contextmanager
def _full_disk():
    """Inside, no file of this process may grow past 4 kB, which fails as a full disk does.

    Never longer than the call under test: pytest's own output may be such a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def full_disk():
    return _full_disk
