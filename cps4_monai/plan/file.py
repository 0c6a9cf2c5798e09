"""``plan.json``: written when training starts, read wherever weights are used, and always beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cps4_monai.atomic_file import write_atomically
from cps4_monai.bundle_root import weights_in
from cps4_monai.plan.plan import Plan, PlanError

FILE_NAME = "plan.json"


def plan_path(weights: str | Path) -> Path:
    """Where the plan of a weights file lies: ``plan.json`` in its folder."""
    return Path(weights).with_name(FILE_NAME)


def read_plan(path: str | Path) -> Plan:
    """A plan from its file.

    Raises:
        PlanError: not readable, or no plan.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error}); expected the plan.json beside weights") from error
    return parse_plan(content, str(path))


def parse_plan(content: bytes, where: str) -> Plan:
    """A plan from the bytes of its file.

    Raises:
        PlanError: no JSON, or no plan.
    """
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise PlanError(f"{where}: no JSON ({error}); copy it again, or export the run again") from error
    return Plan.from_dict(parsed, where)


def weights_file(weights: str | Path) -> Path:
    """The file that training starts from: the one given, or ``models/model.pt`` of a bundle's folder.

    Raises:
        PlanError: there is no such file or folder.
    """
    file = weights_in(Path(weights))
    if not file.is_file():
        raise PlanError(
            f"finetune_from is {weights}: {file} is not there, looked for from {Path.cwd()}; expected the folder of a "
            "bundle (with models/model.pt), or weights of a run (stage2/model.pt). Fix: give its path from that "
            "folder, or the whole path; `cps4 train finetune` needs none, it takes the weights of this package"
        )
    return file


def plan_of(weights: str | Path | Sequence[str | Path]) -> Plan:
    """The plan of a weights file, or of the first of several that is there.

    Raises:
        PlanError: none of the files is there, or it has no plan beside it.
    """
    given = [weights] if isinstance(weights, str | Path) else list(weights)
    there = next((Path(path) for path in given if Path(path).is_file()), None)
    if there is None:
        raise PlanError(f"{given[0]}: no such file; expected weights of a trained network, with their plan.json beside")
    if not plan_path(there).is_file():
        raise PlanError(
            f"{there}: has no {FILE_NAME} beside it, so that its spacing, classes and network are not known; expected "
            "the weights of a run or of a bundle ('cps4 export' copies both): copy the plan along with the weights"
        )
    return read_plan(plan_path(there))


def check_plan(folder: str | Path, plan: Plan) -> None:
    """Refuses a folder of other weights.

    Raises:
        PlanError: the folder holds weights that were made by another plan.
    """
    path = Path(folder) / FILE_NAME
    if path.is_file() and list(path.parent.glob("*.pt")):
        changed = plan.differences(read_plan(path))
        if changed:
            raise PlanError(
                f"{path.parent}: holds weights of other settings ({'; '.join(changed)}); choose another output folder, "
                "or remove this one to start over"
            )


def write_plan(folder: str | Path, plan: Plan, checked: bool = False) -> Path:
    """Writes ``plan.json`` into a folder, whole or not at all.

    Args:
        folder: of the weights.
        plan: of the weights.
        checked: :func:`check_plan` has passed already; a run asks it when it starts and writes later.

    Raises:
        PlanError: see :func:`check_plan`.
    """
    if not checked:
        check_plan(folder, plan)
    return write_atomically(Path(folder) / FILE_NAME, json.dumps(plan.to_dict(), indent=2) + "\n")
