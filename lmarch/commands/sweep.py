"""Sweep hyper-parameters: a config times a search space, on one machine or on many.

  lmarch sweep --config=causal_decoder:size=tiny --space=learning_rate --workdir=runs/s
               [--workers=2] [--launcher=local|slurm|print] [--suite=smoke|cpu|full|none] [--pruner=median|hyperband]
               [--storage=postgresql://...] [--dry-run] [--config.train.steps=400 ...]
  lmarch sweep --workdir=runs/s --workers=2            goes on, or joins from another machine
  lmarch sweep status|collect --workdir=runs/s         how far it is; CSV, JSON, figures and a report of what there is
  lmarch sweep retry --workdir=runs/s                  tries again what has failed, measures what could not be measured

--config and --space name what lmarch ships, or a file of yours. Every trial is a run of `lmarch train` in WORKDIR/trials,
trained once whoever stops when. Exit status: 0 done, 2 a mistake in the input, 75 trials are left that failed on this machine,
128 + N stopped by signal N after saving.
"""

from collections.abc import Sequence

from lmarch.command_line import folder, parse, parser

COMMANDS = ("run", "status", "collect", "retry", "work")

INTERRUPTED = "stopped at once; lmarch sweep --workdir goes on from what was saved"


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__, config=True)
    flags.add_argument("command", nargs="?", default="run", choices=COMMANDS, help="what to do (default: run)")
    flags.add_argument("--workdir", type=folder, required=True, metavar="FOLDER", help="several machines may share it")
    flags.add_argument("--config", metavar="NAME|FILE.py[:ARGUMENTS]", help="what all trials have in common")
    flags.add_argument("--space", metavar="NAME|FILE.py[:ARGUMENTS]", help="what they differ in")
    flags.add_argument("--workers", type=int, default=1, metavar="N", help="how many trials at once")
    flags.add_argument("--launcher", default="local", metavar="NAME", help="local, slurm:partition=...,gpus=1 or print")
    flags.add_argument("--suite", metavar="NAME", help="of the evaluation of each trial, or none (default: smoke)")
    flags.add_argument("--pruner", metavar="NAME", help="who gives trials up: none, median, hyperband (default: none)")
    flags.add_argument("--storage", metavar="URL", help="a database for the study (default: a file in the workdir)")
    flags.add_argument("--dry-run", action="store_true", help="list the trials, their FLOPs and time; start nothing")
    flags.add_argument("--cores", metavar="N,N,...", help="of a worker: the cores it keeps to")
    given, overrides = parse(flags, arguments)

    from lmarch.sweeping.commands import HANDLERS

    return HANDLERS[given.command](given, overrides)
