"""Token selection: what of the visible pairs a query attends to, by queries and keys themselves. A selection a file."""

from lmarch.attention.selection.infllm import InfLlm as InfLlm  # importing a module registers its selection
from lmarch.attention.selection.knn import Knn as Knn
from lmarch.attention.selection.landmark import Landmark as Landmark
from lmarch.attention.selection.moba import Moba as Moba
from lmarch.attention.selection.quest import Quest as Quest
from lmarch.visibility.selection import SELECTIONS as SELECTIONS
