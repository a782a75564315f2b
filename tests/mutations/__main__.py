"""python -m tests.mutations [NAME ...] [--workers=2] [--list]

Makes each mistake in a copy of the tree and runs the tests that should notice it. Red: they do. GREEN: the mistake survives.
Before that all of these tests must pass without any mistake. Exit status: 0 if all are red, 1 if not, 2 if nothing was told.
"""

import argparse
import collections
import concurrent.futures
import os
import queue
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.mutation import ROOT, Mutation, catalogue
from tests.mutations.tree import FAILED, PASSED, Outcome, Tree

LIMIT = 600.0  # seconds for the tests of one mistake
LIMIT_OF_ALL = 3600.0


def main(arguments: Sequence[str]) -> int:
    flags = argparse.ArgumentParser(
        prog="python -m tests.mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("names", nargs="*", metavar="NAME", help="of mutations, or of rooms; default: all")
    flags.add_argument("--workers", type=int, default=2, help="how many copies of the tree are tested at once")
    flags.add_argument("--list", action="store_true", help="only say which there are")
    given = flags.parse_args(arguments)
    mutations = [one for one in catalogue() if not given.names or {one.name, one.room} & set(given.names)]
    unknown = set(given.names) - {name for one in mutations for name in (one.name, one.room)}
    if unknown:
        flags.error(f"no mutation or room {', '.join(sorted(unknown))}: --list says which there are")
    if given.list:
        return _list(mutations)
    compiled = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or ROOT / ".cache" / "xla-tests")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lmarch-mutations-") as folder:
        trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for number in range(given.workers):
            trees.put(Tree.copy(Path(folder).resolve() / str(number), compiled))
        with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
            if not _pass_without(mutations, trees, pool, given.workers):
                return 2
            outcomes = list(pool.map(lambda one: _judge(one, trees), mutations))
    return _told(mutations, outcomes, time.monotonic() - began)


def _list(mutations: Sequence[Mutation]) -> int:
    for one in mutations:
        print(f"{one.name}\n    lmarch/{one.file}: {one.old.strip()}\n    {'-> ' + one.new.strip()}")
        print(*(f"    {test}" for test in one.node_ids), sep="\n")
        if one.why:
            print(f"    ({one.why})")
    rooms = collections.Counter(one.room for one in mutations)
    print(f"{len(mutations)} mutations: {', '.join(f'{room} {count}' for room, count in sorted(rooms.items()))}")
    return 0


def _pass_without(
    mutations: Sequence[Mutation], trees: "queue.SimpleQueue[Tree]", pool: concurrent.futures.Executor, workers: int
) -> bool:
    """Whether the tests of all mutations pass in a tree without any."""
    files: dict[str, dict[str, None]] = {}
    for test in sorted({test for one in mutations for test in one.node_ids}):
        files.setdefault(test.partition("::")[0], {})[test] = None
    parts = [[test for file in list(files)[number::workers] for test in files[file]] for number in range(workers)]

    def run(tests: list[str]) -> Outcome:
        tree = trees.get()
        try:
            return tree.run(tests, LIMIT_OF_ALL)
        finally:
            trees.put(tree)

    outcomes = list(pool.map(run, filter(None, parts)))
    seconds = max(one.seconds for one in outcomes)
    if all(one.status == PASSED for one in outcomes):
        print(f"{seconds:7.1f} s  all of their tests pass without a mutation", flush=True)
        return True
    print(f"{seconds:7.1f} s  tests that do not pass without any mutation say nothing about one:")
    for one in outcomes:
        if one.status != PASSED:
            print("\n".join(one.failed) or one.output or "they took too long")
    return False


def _judge(mutation: Mutation, trees: "queue.SimpleQueue[Tree]") -> Outcome:
    tree = trees.get()
    try:
        with tree.mutated(mutation):
            outcome = tree.run(mutation.node_ids, LIMIT, "-x")
    finally:
        trees.put(tree)
    words = {PASSED: "GREEN", FAILED: "red"}
    told = words.get(-1 if outcome.status is None else outcome.status, "ERROR")
    by = outcome.failed[0] if told == "red" and outcome.failed else ""
    print(f"{outcome.seconds:7.1f} s  {told:<5}  {mutation.name}  {by[:160]}", flush=True)
    if told == "ERROR":
        print(outcome.output[-2000:] or f"    its tests took more than {LIMIT:.0f} s", flush=True)
    return outcome


def _told(mutations: Sequence[Mutation], outcomes: Sequence[Outcome], seconds: float) -> int:
    """The survivors, and what could not be judged."""
    red = sum(one.status == FAILED for one in outcomes)
    print(f"{red} of {len(mutations)} mutations are red, in {seconds:.0f} s")
    for mutation, outcome in zip(mutations, outcomes, strict=True):
        if outcome.status != FAILED:
            what = "SURVIVED" if outcome.status == PASSED else "could not be judged"
            print(f"{what}: {mutation.name} (lmarch/{mutation.file}): {', '.join(mutation.node_ids)}")
    return 0 if red == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
