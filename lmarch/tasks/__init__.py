"""Problems with known answers, made without end: to train on, and to measure what a context is used for."""

from lmarch.tasks import backcopy as backcopy  # importing a module registers its tasks
from lmarch.tasks import copying as copying
from lmarch.tasks import needle as needle
from lmarch.tasks import recall as recall
from lmarch.tasks import state_tracking as state_tracking
from lmarch.tasks.material import Material as Material
from lmarch.tasks.task import TASKS as TASKS
from lmarch.tasks.task import Problem as Problem
from lmarch.tasks.task import Task as Task
