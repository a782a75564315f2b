"""Which programs XLA was asked for, by the names of the functions that they are of."""

import contextlib
from collections.abc import Iterator

import jax

EVENT = "/jax/core/compile/backend_compile_duration"  # recorded for what is read from the cache on disk as well


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """A list that every compilation inside adds its name to."""
    names: list[str] = []

    def listen(event: str, seconds: float, **about: str) -> None:
        if event == EVENT:
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
