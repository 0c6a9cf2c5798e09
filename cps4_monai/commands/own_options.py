"""Settings that a command has an option for: set in another way, they would count without a word in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def refuse_own_options(settings: Collection[str], by_options: Collection[str], options: Mapping[str, str]) -> None:
    """Refuses ``--set`` of what an option of the command sets, by what was given or by its default.

    Args:
        settings: ids that ``--set`` gives.
        by_options: ids that the command's own options give.
        options: id -> option.

    Raises:
        ValueError: names both.
    """
    for name in sorted(set(settings) & set(by_options) & set(options)):
        raise ValueError(f"--set {name}: the command has an option for it. Fix: give {options[name]} in its place")
