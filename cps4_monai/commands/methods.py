"""`cps4 methods`: what a run can be trained by, as the overlays and their classes say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cps4_monai.method_list import MethodEntry

TITLES = {
    "2": "Methods of stage 2",
    "1": "Objectives of stage 1; stage 2 stays that of CPS4",
    "1+2": "Methods of both stages",
}


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def methods(name: str | None, as_json: bool) -> None:
    """List the methods that there are; with NAME, or the path of an overlay, its options and the overlay.

    A method is trained with `--overlay NAME`; a variant with that of its method before its own. The list is read out of
    the bundle's overlays and the classes that they name.

    \b
    Examples:
      cps4 methods                      all, with source, cost and needs
      cps4 methods bcp                  its options, what sets them, and the overlay
      cps4 methods my/overlay.json      one that lies elsewhere
      cps4 methods --json
    """
    from cps4_monai.bundle_root import find_bundle_root
    from cps4_monai.method_list import list_methods, method_of, options_of

    root = find_bundle_root()
    if name is None:
        entries = list_methods(root)
        click.echo(json.dumps([e.to_dict() for e in entries], indent=1) if as_json else "\n".join(_listed(entries)))
        return
    try:
        entry = method_of(_overlay_called(name, root), root)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        options = [option.to_dict() for option in options_of(entry)]
        click.echo(json.dumps({**entry.to_dict(), "options": options, "overlay": entry.overlay}, indent=1))
        return
    click.echo("\n".join(_shown(entry)))


def _folder(root: Path) -> Path:
    return root / "configs" / "methods"


def _of_bundle(path: Path) -> bool:
    """Whether ``--overlay`` finds it by its name."""
    from cps4_monai.bundle_root import find_bundle_root

    return path.resolve().parent == _folder(find_bundle_root()).resolve()


def _overlay_called(name: str, root: Path) -> Path:
    folder = _folder(root)
    for path in (folder / f"{name}.json", Path(name)):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
    raise click.BadParameter(f"there is no method {name!r}; expected the path of an overlay, or one of {known}")


def _listed(entries: list[MethodEntry]) -> Iterator[str]:
    for stages, title in TITLES.items():
        yield click.style(title, bold=True)
        for entry in entries:
            if entry.stages == stages and entry.after is None:
                yield from _entry(entry)
        yield ""
    yield click.style("Variants, named after their method", bold=True)
    for entry in entries:
        if entry.after is not None:
            yield from _wrapped(f"--overlay {entry.after} --overlay {entry.name}", entry.line)


def _entry(entry: MethodEntry) -> Iterator[str]:
    yield from _wrapped(entry.name, entry.line)
    yield from _facts(entry)


def _facts(entry: MethodEntry) -> Iterator[str]:
    from cps4_monai.method_list.entries import NO_COST

    facts = {"source": entry.source, "cost": "; ".join(entry.cost) or NO_COST, "needs": "; ".join(entry.needs)}
    for name, text in facts.items():
        if text:
            yield click.wrap_text(f"{name}: {text}", 100, "      ", "        ")


def _wrapped(name: str, text: str) -> Iterator[str]:
    yield f"  {name}"
    yield click.wrap_text(text, 100, "      ", "      ")


def _shown(entry: MethodEntry) -> Iterator[str]:
    from cps4_monai.method_list import options_of

    yield from _entry(entry)
    before = f"--overlay {entry.after} " if entry.after else ""
    yield f"\n  to train: {before}--overlay {entry.name if _of_bundle(entry.path) else entry.path}"
    for part, target in entry.classes.items():
        yield f"  {part}: {target}"
    yield "\n  options: value with this overlay (default of the class), the setting that --set takes"
    for option in options_of(entry):
        value, default = json.dumps(option.value), json.dumps(option.default)
        yield f"    {option.name} = {value} ({default})  {option.setting}"
        if option.meaning:
            yield click.wrap_text(option.meaning, 100, "        ", "        ")
    yield f"\n  overlay {entry.path.name}:"
    yield from (f"    {line}" for line in json.dumps(entry.overlay, indent=1).splitlines())
