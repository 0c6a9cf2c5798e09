"""Settings that are true or false, and texts that would pass for true. Standard library only."""

from __future__ import annotations

from typing import Any


def true_or_false(value: Any, name: str) -> bool:
    """A setting as a bool.

    ``python -m monai.bundle`` gives ``--overwrite false`` as the text "false", and any text is true.

    >>> true_or_false(False, "overwrite"), true_or_false(1, "overwrite")
    (False, True)

    Raises:
        ValueError: neither true nor false.
    """
    if value in (True, False):
        return bool(value)
    raise ValueError(
        f"{name} is {value!r}; expected True or False. Fix: write them with a capital letter on the command line of "
        "'python -m monai.bundle', for which 'false' is a text"
    )
