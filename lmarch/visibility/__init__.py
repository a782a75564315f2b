"""WHAT a token sees: the architecture's mask, narrowed by a window, and the vocabulary of token selection."""

from lmarch.visibility.masks import ARCHITECTURES as ARCHITECTURES
from lmarch.visibility.masks import Visibility as Visibility
from lmarch.visibility.parallel import Layout as Layout
from lmarch.visibility.selection import PositionTraits as PositionTraits
from lmarch.visibility.selection import Selection as Selection
from lmarch.visibility.selection import build_selection as build_selection
from lmarch.visibility.windows import WINDOWS as WINDOWS
from lmarch.visibility.windows import build_window as build_window
