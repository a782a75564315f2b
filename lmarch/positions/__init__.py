"""WHERE a token is: frequency maps h(i), index maps g(t), and the registry that composes them."""

from lmarch.positions import frequencies as frequencies  # importing a module registers its methods
from lmarch.positions import unrotated as unrotated
from lmarch.positions.position import POSITIONS as POSITIONS
from lmarch.positions.position import Position as Position
from lmarch.positions.position import PositionContext as PositionContext
from lmarch.positions.position import build_position as build_position
