"""WHAT a token sees: the architecture's mask, narrowed by a window."""

from lmarch.visibility.masks import ARCHITECTURES as ARCHITECTURES
from lmarch.visibility.masks import Visibility as Visibility
from lmarch.visibility.parallel import Layout as Layout
from lmarch.visibility.windows import WINDOWS as WINDOWS
from lmarch.visibility.windows import build_window as build_window
