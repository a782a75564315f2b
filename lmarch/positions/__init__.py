"""WHERE a token is: frequencies h(i), index maps g(t), biases, temperatures, and the registry that composes them."""

from lmarch.positions import absolute as absolute  # importing a module registers its methods
from lmarch.positions import biases as biases
from lmarch.positions import by_parts as by_parts
from lmarch.positions import forgetting as forgetting
from lmarch.positions import frequencies as frequencies
from lmarch.positions import index_maps as index_maps
from lmarch.positions import reshaped as reshaped
from lmarch.positions import stretches as stretches
from lmarch.positions.context import PositionContext as PositionContext
from lmarch.positions.position import POSITIONS as POSITIONS
from lmarch.positions.position import Position as Position
from lmarch.positions.position import build_position as build_position
from lmarch.positions.samplers import SAMPLERS as SAMPLERS
from lmarch.positions.samplers import PositionSampler as PositionSampler
from lmarch.positions.temperatures import TEMPERATURES as TEMPERATURES
