"""Train a model from a config.

  lmarch train --config=causal_decoder[:rope=ntk,size=small] --workdir=runs/a [--config.train.steps=2000 ...]

--config names a config that lmarch ships, or a file of yours. Every field of it can be overridden. A second run with the
same config and workdir goes on where the first one stopped. Exit status: 0 done, 2 a mistake in the input, 128 + N stopped
by signal N after saving.
"""

import sys
from collections.abc import Sequence

from lmarch.command_line import folder, parse, parser, use_compilation_cache


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__, config=True)
    flags.add_argument("--config", required=True, metavar="NAME|FILE.py[:ARGUMENTS]", help="what to train")
    flags.add_argument(
        "--workdir", type=folder, required=True, metavar="FOLDER", help="where checkpoints and metrics go"
    )
    given, overrides = parse(flags, arguments)

    from lmarch.config_files import load_config
    from lmarch.evaluation.asked import check_before_training
    from lmarch.training.loop import train

    config = load_config(given.config, overrides)
    check_before_training(config, given.workdir)
    use_compilation_cache(config.data.cache_dir)
    outcome = train(config, given.workdir)
    if outcome.exit_status:
        done = f"after step {outcome.steps}, which is saved" if outcome.steps else "before the first step"
        print(f"stopped {done}; the same command goes on from there", file=sys.stderr)
    return outcome.exit_status
