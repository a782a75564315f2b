"""What the commands share: flags, `--config.a.b=value` overrides, and one clear line for a user's mistake."""

import _thread
import argparse
import difflib
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lmarch.errors import UserError, nearest

Override = tuple[str, str]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parser(description: str | None, *, config: bool = False) -> argparse.ArgumentParser:
    """A parser of flags whose mistakes are UserErrors.

    Args:
      config: whether the command takes `--config.KEY=VALUE`: its help then ends in the groups of a config, and
        `--help=GROUP` lists the fields of one.
    """
    made = _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=not config,
    )
    if config:
        meaning = "this, or every field of a group of the config: type, default, meaning"
        made.add_argument("-h", "--help", nargs="?", const="", metavar="GROUP", action=_Help, help=meaning)
    return made


class _Help(argparse.Action):
    """Prints help and ends; only then is anything of the config imported."""

    def __call__(self, parser: argparse.ArgumentParser, given: object, group: Any, option: str | None = None) -> None:
        from lmarch.config.help import group_help, groups_help  # only here, as the docstring says

        print(group_help(group) if group else f"{parser.format_help()}\n{groups_help()}")
        parser.exit()


def folder(text: str) -> Path:
    """The type of a flag that names a folder of this machine: `~` is the user's home, also where no shell has seen it."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL, and lmarch writes folders: give one, which may be a mount of that bucket (gcsfuse, s3fs)"
        )
    return Path(text).expanduser()


def parse(flags: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Override]]:
    """The flags, and the `--config.KEY=VALUE` overrides in order; raises UserError for anything else.

    Among that is what is not UTF-8: nothing that is trained on or written down could hold it.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"argument {argument!r} is not UTF-8: convert it, or rename the file that it names"
            ) from error
    known, rest = flags.parse_known_args(_joined(arguments))
    overrides: list[Override] = []
    for argument in rest:
        key, equals, value = argument.partition("=")
        if not key.startswith("--config."):
            raise UserError(f"unknown argument {argument!r}; {_flag_meant(flags, key)}")
        if not equals:
            raise UserError(f"{key} has no value: write {key}=VALUE")
        overrides.append((key.removeprefix("--config."), value))
    return known, overrides


def _flag_meant(flags: argparse.ArgumentParser, key: str) -> str:
    """The nearest flag, or the field of the config that goes by this name here or in another trainer."""
    options = [option for action in flags._actions for option in action.option_strings]
    if any(isinstance(action, _Help) for action in flags._actions):
        from lmarch.config.names import LIKE, field_meant  # only here: flags that are right need no config

        likely = difflib.get_close_matches(key, options, n=1, cutoff=LIKE)
        if not likely and (field := field_meant(key.lstrip("-"), LIKE)):
            return f"write --config.{field}=VALUE"
    return nearest(key, options)


def no_overrides(overrides: Sequence[Override]) -> None:
    """UserError if there are any, for commands that have flags only."""
    if overrides:
        raise UserError(f"--config.{overrides[0][0]}: this command has no config, only flags")


def _joined(arguments: Sequence[str]) -> list[str]:
    """Turns `--config.key value` into `--config.key=value`."""
    joined: list[str] = []
    for argument in arguments:
        open_key = joined and joined[-1].startswith("--config.") and "=" not in joined[-1]
        if open_key and not argument.startswith("--"):
            joined[-1] += "=" + argument
        else:
            joined.append(argument)
    return joined


# What a disk or its owner says no to; other errors of the system are mistakes in the program.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EBADF, errno.EFBIG}
INTERRUPTED = "stopped at once; the same command goes on from what was saved"


def run(main: Callable[[Sequence[str]], int], interrupted: str = INTERRUPTED) -> NoReturn:
    """Runs a command: exit status 2 and one line for a UserError; a traceback is a bug.

    Args:
      interrupted: what to say after Ctrl-C.
    """
    quiet_libraries()
    if sys.stdout is None:  # closed by whoever started this (`>&-`): nobody wants to read
        _print_nowhere()
    # A library's thread or finalizer that cannot write says so in one line; the loop meets the same full disk and stops.
    threading.excepthook = lambda unheard: _say(f"in the background: {unheard.exc_value}")
    sys.unraisablehook = _unraisable
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        _end_quietly()  # before the frames that the error holds are gone, and with them what they were using
        _say(f"{Path(sys.argv[0]).name}: {error}")
        status = error.exit_status
    except KeyboardInterrupt:
        _end_quietly()
        _say(interrupted)
        status = 130
    except BrokenPipeError:  # whoever read what is printed has seen enough: `| head`
        _print_nowhere()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _end_quietly()
        _print_nowhere()
        where = error.filename or "what is printed, or a file,"
        _say(f"{Path(sys.argv[0]).name}: {where} cannot be read or written ({error.strerror})")
        status = UserError.exit_status
    _end_quietly()
    sys.exit(status)


def _print_nowhere() -> None:
    """For an output that is closed or full: Python flushes it once more when it ends."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)


def _unraisable(unheard: "sys.UnraisableHookArgs") -> None:
    if isinstance(unheard.exc_value, KeyboardInterrupt):
        # Ctrl-C came while a finalizer ran, which cannot pass it on; nor can this hook, so it comes again in a moment.
        again = threading.Timer(0.05, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        _say(f"in the background: {unheard.exc_value}")


def _say(line: str) -> None:
    """In one write: `print` writes the end of a line apart, and another thread's line may come between."""
    sys.stderr.write(line + "\n")


def _end_quietly() -> None:
    """From here on libraries' threads and finalizers only find their files, queues and loops closed."""
    threading.excepthook = lambda unheard: None
    sys.unraisablehook = lambda unheard: None
    warnings.simplefilter("ignore")  # coroutines that nobody will await any more


def quiet_libraries() -> None:
    """Libraries narrate through absl and the C++ runtime; what goes wrong arrives as an exception as well."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def use_compilation_cache(folder: str | Path) -> None:
    """Compiled programs are kept between runs, so that a second start is fast. What JAX's own variables say wins."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser() / "xla"))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
