"""Token selection: what of the visible pairs a query attends to, by queries and keys themselves."""

from lmarch.visibility.selection.base import SELECTIONS as SELECTIONS
from lmarch.visibility.selection.base import Beside as Beside
from lmarch.visibility.selection.base import Selection as Selection
from lmarch.visibility.selection.base import Statistics as Statistics
from lmarch.visibility.selection.base import Tile as Tile
from lmarch.visibility.selection.base import build_selection as build_selection
from lmarch.visibility.selection.infllm import InfLlm as InfLlm  # importing a module registers its selection
from lmarch.visibility.selection.knn import Knn as Knn
from lmarch.visibility.selection.landmark import Landmark as Landmark
from lmarch.visibility.selection.quest import Quest as Quest
