"""Where a number is from: the commit and its changes, the code that computes it, versions, device and time.

Trained models and scores are found again by what was asked *and* by the code that answers it, so that a change of what a method
computes is never mistaken for a result that is there already.
"""

import ast
import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

import lmarch
from lmarch.shipped import PACKAGE, checkout

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
# Files and folders of the package whose code can change what a model computes, what scores it gets, how it is trained.
MODEL = ("branches.py", "positions", "visibility", "attention", "models")
SCORING = (*MODEL, "loading.py", "tasks", "data", "evaluation/items.py", "evaluation/scoring.py")
TRAINING = (
    *MODEL,
    "objectives",
    "tasks",
    "data",
    *(f"training/{name}.py" for name in ("setup", "run", "step", "optimizers")),
)


def machine_record() -> dict[str, Any]:
    """When, with which code, versions and device something is computed."""
    device = jax.devices()[0]
    return {
        "started": now(),
        "versions": {
            "lmarch": lmarch.__version__,
            "python": platform.python_version(),
            **{name: _installed(name) for name in PACKAGES},
        },
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git_commit": git_commit(),
    }


def measurement() -> dict[str, str | None]:
    """Entries of a result row that say where its number is from, if it is measured now."""
    return {**_of_process(), "measured": now()}


@functools.cache  # a process has one tree, one device, and imported its code once
def _of_process() -> dict[str, str | None]:
    record = machine_record()
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    return {
        "git_commit": record["git_commit"],
        "code": code_digest(SCORING),
        "versions": versions,
        "device": record["device"],
        "measured_in": f"{record['started']} process {os.getpid()}",  # timings of others do not compare
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The commit of the code that runs; if the work tree differs from it, with `+changes:` and a digest of the changes.

    None where lmarch does not run from a checkout of its own: another repository may well hold the environment that it
    is installed in, and that one's commit says nothing. The version then says which code it is.
    """
    top = checkout()
    if top is None:
        return None
    try:
        root, commit = (_git(top, "rev-parse", what).decode().strip() for what in ("--show-toplevel", "HEAD"))
        if Path(root).resolve() != top.resolve():
            return None
        changes = hashlib.sha256(_git(top, "diff", "--binary", "HEAD"))
        new = _git(top, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]
        for name in new:
            changes.update(name + b"\0" + (top / os.fsdecode(name)).read_bytes())
    except (OSError, subprocess.CalledProcessError):
        return None
    clean = changes.digest() == hashlib.sha256().digest()
    return commit if clean else f"{commit}+changes:{changes.hexdigest()[:12]}"


def _git(top: Path, *command: str) -> bytes:
    return subprocess.run(["git", "-C", str(top), *command], capture_output=True, check=True).stdout


@functools.cache
def code_digest(parts: tuple[str, ...]) -> str:
    """Twelve hex digits over the code of these files and folders of the package, without what only people read.

    The same in every version of Python: the syntax tree is what counts, without docstrings and without what is empty.
    """
    sha = hashlib.sha256()
    for part in parts:
        path = PACKAGE / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            sha.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode())
            for word in _words(ast.parse(file.read_bytes())):
                sha.update(word.encode() + b"\0")
    return sha.hexdigest()[:12]


def _words(node: ast.AST) -> Iterator[str]:
    """A syntax tree as a sequence of words, which tell any two trees apart."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if isinstance(value, list) and name == "body" and value and _is_docstring(value[0]):
            value = value[1:]
        if value is None or value == []:  # fields that only newer versions of Python have are empty
            continue
        yield name
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from _words(item)
            else:
                yield repr(item)
    yield "end"


def _is_docstring(statement: ast.AST) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _installed(package: str) -> str | None:
    """Its version; None where it is not there: text files are trained on without TFDS."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
