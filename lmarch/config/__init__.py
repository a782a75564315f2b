"""What a run is: typed frozen dataclasses behind config files and the command line (`config_files.py`).

`from_dict` checks every key, type and value of an untyped tree and freezes the result. Everything derived (steps from
tokens, head sizes, the fingerprint) is computed here and nowhere else. A group a file; `run.py` holds them together.
"""

from lmarch.config.data import DataConfig
from lmarch.config.evaluation import EvalConfig
from lmarch.config.mesh import MeshConfig
from lmarch.config.model import EncoderConfig, ModelConfig
from lmarch.config.reading import from_dict
from lmarch.config.run import Config, digest, seeds_of
from lmarch.config.training import TrainConfig

__all__ = [
    "Config",
    "DataConfig",
    "EncoderConfig",
    "EvalConfig",
    "MeshConfig",
    "ModelConfig",
    "TrainConfig",
    "digest",
    "from_dict",
    "seeds_of",
]
