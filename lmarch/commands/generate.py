"""Write on from a prompt with a trained model.

  lmarch generate --workdir=runs/a --prompt="Fellow citizens" [--max_new_tokens=200] [--temperature=0.8] [--top_k=50]
                     [--top_p=0.95] [--seed=0] [--stop=TEXT ...] [--method=rerope:window=64] [--window=streaming]
                     [--selection=quest]

Text appears as it is written. `--prompt` may be given several times: the prompts are read as one batch, and written out one
after the other. `--prompt=-` reads standard input, as UTF-8. `--method`, `--window` and `--selection` put other positions,
another window or a selection on the same weights. Exit status: 0 done, 2 a mistake in the input.
"""

import sys
from collections.abc import Sequence

from lmarch.command_line import folder, no_overrides, parse, parser, use_compilation_cache
from lmarch.errors import UserError

INTERRUPTED = "\nstopped"


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--workdir", type=folder, required=True, metavar="FOLDER", help="a run of lmarch train")
    flags.add_argument("--prompt", required=True, action="append", metavar="TEXT", help="what to go on from")
    flags.add_argument("--max_new_tokens", type=int, default=200, metavar="N")
    flags.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0 takes the most likely token")
    flags.add_argument("--top_k", type=int, metavar="K", help="draw from the K most likely tokens")
    flags.add_argument("--top_p", type=float, metavar="P", help="draw from the fewest with probability P together")
    flags.add_argument("--seed", type=int, default=0, metavar="N")
    flags.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this")
    flags.add_argument("--method", metavar="NAME:PARAMETER=VALUE,...", help="a position method on the same weights")
    flags.add_argument("--window", metavar="NAME:PARAMETER=VALUE,...", help="a context window on the same weights")
    flags.add_argument("--selection", metavar="NAME:PARAMETER=VALUE,...", help="a token selection on the same weights")
    flags.add_argument(
        "--prefix_length", type=int, metavar="N", help="prefix decoder: tokens seen both ways (default: all)"
    )
    flags.add_argument("--step", type=int, metavar="N", help="which checkpoint (default: the latest)")
    given, overrides = parse(flags, arguments)
    no_overrides(overrides)
    _check_output()
    prompts = [_standard_input() if prompt == "-" else prompt for prompt in given.prompt]

    from lmarch.loading import load

    model = load(given.workdir, step=given.step)
    use_compilation_cache(model.config.data.cache_dir)
    model = model.with_position(given.method) if given.method else model
    model = model.with_window(given.window) if given.window else model
    model = model.with_selection(given.selection) if given.selection else model
    names = ("temperature", "top_k", "top_p", "seed", "stop", "prefix_length")
    settings = {name: getattr(given, name) for name in names}
    if len(prompts) == 1:
        rest = [prompts[0]]  # shown with the first text, when nothing can be wrong any more

        def show(row: int, text: str) -> None:
            print("".join(rest) + text, end="", flush=True)
            rest.clear()

        model.generate(prompts, given.max_new_tokens, **settings, on_text=show)
        print("".join(rest))
    else:
        texts = model.generate(prompts, given.max_new_tokens, **settings)
        print("\n---\n".join(map("".join, zip(prompts, texts, strict=True))))
    return 0


def _standard_input() -> str:
    """All of it, with its line ends as they are."""
    content = sys.stdin.buffer.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt=-: standard input is not UTF-8: byte {content[error.start]:#04x} at offset {error.start}; convert it, "
            "for example with: iconv -f latin1 -t utf-8"
        ) from error


def _check_output() -> None:
    """Raises a UserError for an output that has not every character: a model may write any."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        "\N{SLIGHTLY SMILING FACE}".encode(encoding, sys.stdout.errors or "strict")
    except UnicodeEncodeError as error:
        raise UserError(
            f"standard output is {encoding}, which has not every character that a model may write: set PYTHONIOENCODING=utf-8"
        ) from error
