"""What a model is asked about a piece of text: language modelling, denoising, blank infilling, as pure functions."""

from lmarch.objectives import blank_infilling as blank_infilling  # importing a module registers its objectives
from lmarch.objectives import denoisers as denoisers
from lmarch.objectives import language_modelling as language_modelling
from lmarch.objectives import span_corruption as span_corruption
from lmarch.objectives.batch import Batch as Batch
from lmarch.objectives.collator import Collator as Collator
from lmarch.objectives.collator import collate_pairs as collate_pairs
from lmarch.objectives.collator import collate_stream as collate_stream
from lmarch.objectives.draws import Draws as Draws
from lmarch.objectives.example import Example as Example
from lmarch.objectives.example import Examples as Examples
from lmarch.objectives.example import Sizes as Sizes
from lmarch.objectives.example import Texts as Texts
from lmarch.objectives.example import Vocabulary as Vocabulary
from lmarch.objectives.objective import ARCHITECTURE_NAMES as ARCHITECTURE_NAMES
from lmarch.objectives.objective import OBJECTIVES as OBJECTIVES
from lmarch.objectives.objective import Objective as Objective
from lmarch.objectives.objective import objective_for as objective_for
