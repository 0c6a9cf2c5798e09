"""Settings that a command has an option for: given in both ways, one of them would count without a word."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def refuse_own_options(settings: Collection[str], by_options: Collection[str], options: Mapping[str, str]) -> None:
    """Refuses what ``--set`` and an option of the command both set.

    Args:
        settings: ids that ``--set`` gives.
        by_options: ids that the command's own options give.
        options: id -> option.

    Raises:
        ValueError: names both.
    """
    for name in sorted(set(settings) & set(by_options) & set(options)):
        raise ValueError(f"--set {name} and {options[name]} set the same. Fix: give {options[name]} alone")
