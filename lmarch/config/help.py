"""The config, as `--help` and `--help=GROUP` print it."""

import shutil
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lmarch.config.describing import describe_group, groups, purpose
from lmarch.errors import UserError, nearest

NARROWEST = 60  # columns; below that, lines wrap as the terminal likes


def groups_help() -> str:
    """A line for each group of fields."""
    rows = [(f"--config.{name}.FIELD=VALUE", f"--help={name}", purpose(group)) for name, group in groups().items()]
    return "config:\n" + _table(rows, pad=2).rstrip()


def group_help(name: str) -> str:
    """Every field of a group: type, default and meaning; raises UserError for a name that is none."""
    known = groups()
    name = name.removeprefix("config.")
    if name not in known:
        raise UserError(f"--help={name}: there is no such group of fields; {nearest(name, known)}")
    header = ("FIELD", "DEFAULT", "VALUES", "MEANING")
    rows = [(f.name.removeprefix(f"{name}."), f.default, f.kind, f.meaning) for f in describe_group(name)]
    inner = [f"--help={other}" for other in known if other.startswith(f"{name}.")]
    more = f"\nmore: {', '.join(inner)}" if inner else ""
    return f"--config.{name}.FIELD=VALUE     {purpose(known[name])}\n\n{_table([header, *rows])}{more}".rstrip()


def _table(rows: Sequence[tuple[str, ...]], pad: int = 0) -> str:
    """Columns as wide as the terminal allows, the last ones wrapped."""
    width = max(NARROWEST, shutil.get_terminal_size((120, 24)).columns)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number in range(len(rows[0])):
        table.add_column(no_wrap=number < 2, overflow="fold")
    for row in rows:
        table.add_row(*(" " * pad + cell if number == 0 else cell for number, cell in enumerate(row)))
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
