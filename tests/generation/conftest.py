"""Shared by the tests of what users call."""

import pytest
from spelling import spelling_model

from lmarch.loading import Model


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Model:
    """One for all files: training takes longer than most of their tests."""
    return spelling_model(tmp_path_factory.mktemp("spelling"))
