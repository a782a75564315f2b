"""Run a named experiment: train its models, compare them on the same targets, judge what was published, report.

  lmarch reproduce --list
  lmarch reproduce NAME [--tier=cpu|gpu] [--workdir=runs/experiments] [--publish]

What was trained or measured before is used again. Exit status: 0 done, 2 a mistake in the input, 3 a value was not
finite, 128 + N stopped by signal N after saving.
"""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmarch.command_line import parse, parser, use_compilation_cache
from lmarch.errors import UserError
from lmarch.shipped import checkout

if TYPE_CHECKING:
    from lmarch.experiment import Stored


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("name", nargs="?", metavar="NAME", help="an experiment of configs/experiments")
    flags.add_argument("--list", action="store_true", help="the experiments there are: source, cost, last verdicts")
    flags.add_argument("--tier", default="cpu", metavar="NAME", help="how large: cpu or gpu")
    flags.add_argument("--workdir", default="runs/experiments", metavar="FOLDER", help="where models and reports go")
    flags.add_argument("--publish", action="store_true", help="store the small results in results/ as well")
    given, overrides = parse(flags, arguments)

    from lmarch.experiment import experiment_names, load_experiment, publish, reproduce, stored_results, tiers_of

    if overrides:
        raise UserError(
            f"--config.{overrides[0][0]}: an experiment is what its file says; change that, or use lmarch train"
        )
    if given.list or given.name is None:
        stored = stored_results()
        for name in experiment_names():
            tiers = tiers_of(name)
            one = next(iter(tiers.values()))
            print(f"{name}: {one.question}\n  published: {one.source}")
            for tier, experiment in tiers.items():
                print(f"  {tier}: {experiment.cost}; {last_status(stored.get((name, tier)))}")
        return 0
    if given.publish and checkout() is None:
        raise UserError("--publish stores results in a checkout of lmarch, and this lmarch is installed: leave it out")
    experiment = load_experiment(given.name, given.tier)
    use_compilation_cache(experiment.config(next(iter(experiment.configs)), experiment.seeds[0]).data.cache_dir)
    workdir = Path(given.workdir)
    status = reproduce(given.name, experiment, given.tier, workdir)
    if given.publish and status == 0:
        print(f"stored: {publish(given.name, given.tier, workdir)}")
    return status


def last_status(stored: "Stored | None") -> str:
    """What the stored results came to."""
    from lmarch.evaluation.claims import STATUSES

    if stored is None:
        return "no stored results"
    verdicts = collections.Counter(row["status"] for row in stored.verdicts)
    counts = ", ".join(f"{verdicts[status]} {status}" for status in STATUSES if verdicts[status]) or "no claims"
    return f"{counts} on {stored.record['started'][:10]}"
