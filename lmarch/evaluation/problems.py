"""Exact match on synthetic tasks, by length: one teacher-forced pass, in which a right answer is what greedy decoding says.

Problems are a function of the task, the length, the evaluation's seed and their number: every method, and every model with
the same tokenizer and text, gets the same ones. Numbers to find and text to hide them in are none that training on the task
uses. Beside them stands the crop control: the model as it was trained, with the same problems cut to their last L tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.data.material import material
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.evaluation.items import Items
from lmarch.evaluation.measuring import Measured
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.session import Session, identity
from lmarch.registry import describe, format_variant
from lmarch.tasks import TASKS, Material, Problem, Task

METRICS = ("exact_match", "accuracy", "nll")


def rows(session: Session) -> list[dict[str, Any]]:
    """A row a (task, method, length, metric); of a task with several depths also one for each of them."""
    seed, made = session.config.eval.seed, []
    made_of = material(session.config.data, session.manifest.split, session.model.tokenizer)
    for name in _tasks_of(session):
        task = TASKS.build(name)
        sets = {n: draw(task, made_of, n, session.size.problems, seed) for n in _lengths(session, task, made_of)}
        items = {n: as_items(problems, task, session.model.tokenizer, seed) for n, problems in sets.items()}
        cut = {n: short for n, whole in items.items() if (short := last_tokens(whole, session.trained_length))}
        controls = [(session.as_trained, None, short) for short in cut.values()]
        cells = [(method, length) for method in session.methods for length in sets]
        measured = session.measure(name, [*controls, *((method, None, items[length]) for method, length in cells)])
        crops = dict(zip(cut, measured, strict=False))
        for (_, length), one in zip(cells, measured[len(cut) :], strict=True):
            if one is None:
                continue
            made += _results(one, length, sets[length], crops.get(length))
            made += _by_depth(one, length, task, sets[length])
    return made


def draw(task: Task, material: Material, length: int, count: int, seed: int) -> list[Problem]:
    """`count` problems of a length, the cases of the task in turn."""
    cases = task.strata
    return [
        cases[number % len(cases)].problem(length, material, np.random.default_rng((seed, length, number)))
        for number in range(count)
    ]


def as_items(problems: Sequence[Problem], task: Task, tokenizer: Tokenizer, seed: int) -> Items:
    """One row a problem, each its own cluster."""
    examples = [problem.example for problem in problems]
    rows_NT = np.stack([np.concatenate([example.inputs, example.targets]) for example in examples]).astype(np.int32)
    targets_NS = np.stack([example.targets for example in examples])
    every = np.ones(targets_NS.shape[1], bool)
    scored_NS = np.stack([every if example.scored is None else example.scored for example in examples])
    source = {"corpus": format_variant(describe(task)), "split": "made", "bos": "as the task has it"}
    numbers, given = np.arange(len(examples)), len(examples[0].inputs)
    return Items(rows_NT, tokenizer.byte_lengths[targets_NS], scored_NS, numbers, given, seed, source)


def last_tokens(items: Items, length: int) -> Items | None:
    """The same answers after the last `length` tokens of what comes before them; none where that holds no answer."""
    beyond = items.length - length
    if beyond <= 0:
        return items
    given = None if items.given is None else items.given - beyond
    if items.targets > length or (given is not None and given < 1):
        return None
    return dataclasses.replace(items, rows_NT=items.rows_NT[:, beyond:], given=given)


def _tasks_of(session: Session) -> list[str]:
    """Those that are asked for, or else those that the model was trained on."""
    trained = [format_variant(one["task"]) for one in session.model.config.data.tasks]
    return list(session.config.eval.tasks or trained)


def _lengths(session: Session, task: Task, material: Material) -> list[int]:
    """The session's lengths of which there are problems; the others are named."""
    possible = []
    for length in session.lengths:
        try:
            task.check(material, length)
            possible.append(length)
        except UserError as error:
            session.console.print(f"  left out: {error}")
    return possible


def _results(one: Measured, length: int, problems: Sequence[Problem], crop: Measured | None) -> list[dict[str, Any]]:
    """Of each metric the value, and, where there is a crop control, its value and what the whole context gains on it."""
    distance, made = float(np.mean([problem.distance for problem in problems])), []
    for metric in METRICS:
        pairing = Pairing(one.items, metric)
        total_D = pairing.per_document(one.scores)
        row = {"task": "problems", "metric": metric, **identity(one), **pairing.facts()}
        row |= pairing.value(total_D, "value", "ci")
        if crop is not None:
            crop_D = pairing.per_document(crop.scores)
            better, worse = (total_D, crop_D) if pairing.metric.higher_is_better else (crop_D, total_D)
            row |= pairing.value(crop_D, "crop", "crop") | pairing.difference(better, worse, "gain")
        made.append(row | {"length": length, "tokens": one.length, "distance": distance})
    return made


def _by_depth(one: Measured, length: int, task: Task, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Exact match at each depth, with the mean distance from the answer to where it stands."""
    cases = task.strata
    if len(cases) == 1:
        return []
    made = []
    for number, case in enumerate(cases):
        mine = np.arange(len(problems)) % len(cases) == number
        if not mine.any():
            continue
        only = one.items.of_rows(mine)
        pairing = Pairing(only, "exact_match")
        value = pairing.value(pairing.per_document(one.scores.of_rows(mine)), "value", "ci")
        distance = float(np.mean([p.distance for p, own in zip(problems, mine, strict=True) if own]))
        row = {"task": "by_depth", "metric": "exact_match", **identity(one), **pairing.facts(), **value}
        made.append(row | {"length": length, "tokens": one.length, "depth": case.depth, "distance": distance})
    return made
