"""One folder with all that a machine without a network needs: wheels, weights, a data set, and the hash of each file.

    python offline/wheelhouse.py fill wheelhouse --extras train,dicom
    python wheelhouse/wheelhouse.py check wheelhouse

``make wheelhouse`` runs the first; the second runs on the machine without a network, by any Python, before pip does.
The folder holds ``wheels``, ``requirements.txt`` (each wheel by version and SHA-256, for pip's ``--require-hashes``),
``cache/weights`` (what ``cps4 weights`` fetches; ``CPS4_CACHE_DIR`` names ``cache``), ``data``, ``about.json`` (which
Python and system the wheels are for), this file, and ``SHA256SUMS``, which is written last: a folder without it is not
complete. Standard library only, since it runs where nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SUMS, ABOUT, REQUIREMENTS, WHEELS, WEIGHTS, DATA = (
    "SHA256SUMS",
    "about.json",
    "requirements.txt",
    "wheels",
    "cache/weights",
    "data",
)
ROOT = Path(__file__).resolve().parents[1]


class WheelhouseError(ValueError):
    """A folder that is no whole wheelhouse, or cannot become one; the message says what to do."""


# --- filling --------------------------------------------------------------------------------------------------------


def fill(
    folder: Path,
    extras: str = "dev",
    constraints: Path | None = None,
    torch: str | None = None,
    weights: Sequence[str] = (),
    data: Path | None = None,
) -> None:
    """Everything, in the order in which it takes longest to fail.

    Args:
        folder: to fill; not there, empty, or a wheelhouse, whose wheels are replaced.
        extras: of the package, with commas between them.
        constraints: file of pinned versions; None: that of the repository.
        torch: version in place of the pinned one, as "2.13.0+cpu"; torchvision then follows it.
        weights: names of ``cps4 weights``.
        data: folder with a data set to take along.

    Raises:
        WheelhouseError: a folder with other files in it, no data, or a step that failed.
    """
    start(folder, data)
    pins = (constraints or ROOT / "constraints.txt").read_text(encoding="utf-8")
    (folder / "constraints.txt").write_text(pins_for(pins, torch), encoding="utf-8")
    wanted = [f"{ROOT}[{extras}]", *([] if torch is None else [f"torch=={torch}"])]
    pip = [sys.executable, "-m", "pip", "wheel", "--constraint", str(folder / "constraints.txt")]
    run([*pip, "--wheel-dir", str(folder / WHEELS), *wanted], "the wheels could not be had")
    for name in weights:
        fetch = [sys.executable, "-m", "cps4_monai.cli", "weights", name, "--folder", str(folder / WEIGHTS)]
        run(fetch, f"the weights {name!r} could not be had; leave them out with WEIGHTS=")
    if data is not None:
        shutil.copytree(data, folder / DATA / data.resolve().name)
    shutil.copyfile(__file__, folder / "wheelhouse.py")
    write_requirements(folder)
    write_about(folder, extras)
    write_sums(folder)


def start(folder: Path, data: Path | None) -> None:
    """An empty folder, or a wheelhouse without its wheels, data and sums.

    Raises:
        WheelhouseError: it holds other files, or there is no such data set.
    """
    if data is not None and not data.is_dir():
        raise WheelhouseError(f"DATA is {data}, which is no folder; expected that of a data set. Fix: give its path")
    begun = any((folder / name).exists() for name in (ABOUT, "constraints.txt", SUMS))
    if folder.exists() and any(folder.iterdir()) and not begun:
        raise WheelhouseError(f"{folder} holds other files; expected an empty folder. Fix: choose another WHEELHOUSE")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMS).unlink(missing_ok=True)
    for part in (WHEELS, DATA):
        shutil.rmtree(folder / part, ignore_errors=True)
    (folder / WHEELS).mkdir()


def run(command: Sequence[str], failed: str) -> None:
    """A step as a process of its own.

    Raises:
        WheelhouseError: it failed.
    """
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        raise WheelhouseError(f"{failed} (exit code {code} of {' '.join(command[1:5])} ...): see the lines above")


def pins_for(constraints: str, torch: str | None) -> str:
    """The pins, those of torch, torchvision and what comes with one build of it (triton, CUDA) left out for another."""
    if torch is None:
        return constraints
    return re.sub(r"^(?:torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==.*\n", "", constraints, flags=re.M)


def name_and_version(wheel: Path) -> tuple[str, str]:
    """Of a wheel's file name, by which pip knows it.

    Raises:
        WheelhouseError: no name of a wheel.
    """
    parts = wheel.name.removesuffix(".whl").split("-")
    if len(parts) not in (5, 6) or wheel.suffix != ".whl":
        raise WheelhouseError(f"{wheel} has no name of a wheel; expected NAME-VERSION-TAGS.whl. Fix: remove it")
    return parts[0].replace("_", "-"), parts[1]


def write_requirements(folder: Path) -> None:
    """``requirements.txt``: every wheel by name, version and hash, as pip's ``--require-hashes`` wants it.

    Raises:
        WheelhouseError: no wheel, or two of one package.
    """
    wheels = sorted((folder / WHEELS).iterdir())
    lines: dict[str, str] = {}
    for wheel in wheels:
        name, version = name_and_version(wheel)
        if name.lower() in lines:
            raise WheelhouseError(f"{folder / WHEELS} holds two wheels of {name}. Fix: remove one, run it again")
        lines[name.lower()] = f"{name}=={version} --hash=sha256:{sha256(wheel)}\n"
    if not lines:
        raise WheelhouseError(f"{folder / WHEELS} holds no wheel; expected those of the package and what it needs")
    (folder / REQUIREMENTS).write_text("".join(lines.values()), encoding="utf-8")


def this_machine() -> dict[str, str]:
    """What a wheel may depend on."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "system": platform.system(),
        "machine": platform.machine(),
    }


def write_about(folder: Path, extras: str) -> None:
    """``about.json``: for which machines, with which extras."""
    (folder / ABOUT).write_text(json.dumps({**this_machine(), "extras": extras}, indent=1) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """In hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_of(folder: Path) -> Iterator[str]:
    """Every file but the sums, by its path in the folder, with slashes."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != SUMS:
            yield name


def write_sums(folder: Path) -> None:
    """``SHA256SUMS``, as ``sha256sum --check`` reads it; written beside and renamed, the last of all files."""
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in files_of(folder))
    beside = folder.parent / f".{folder.name}.sums"
    beside.write_text(lines, encoding="utf-8")
    beside.replace(folder / SUMS)


# --- checking -------------------------------------------------------------------------------------------------------


def read_sums(folder: Path) -> dict[str, str]:
    """Hash by path.

    Raises:
        WheelhouseError: no ``SHA256SUMS``, or a line that is none of it.
    """
    path = folder / SUMS
    if not path.is_file():
        raise WheelhouseError(
            f"{path} is not there; expected a whole wheelhouse. Fix: run `make wheelhouse` to its end, copy it again"
        )
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        matched = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if matched is None:
            raise WheelhouseError(f"{path}, line {number}: {line[:80]!r}; expected 'HASH  PATH'. Fix: copy it again")
        sums[matched[2]] = matched[1]
    return sums


def problems_of(folder: Path) -> list[str]:
    """What is wrong with a wheelhouse, one line each; empty where nothing is.

    Raises:
        WheelhouseError: see :func:`read_sums`.
    """
    sums, there = read_sums(folder), set(files_of(folder))
    problems = [f"{name}: missing" for name in sorted(sums.keys() - there)]
    damaged = [name for name in sorted(sums.keys() & there) if sha256(folder / name) != sums[name]]
    problems += [f"{name}: damaged, its SHA-256 is not that of {SUMS}" for name in damaged]
    foreign = [name for name in sorted(there - sums.keys()) if name.startswith((f"{WHEELS}/", f"{WEIGHTS}/"))]
    return problems + [f"{name}: not of this wheelhouse" for name in foreign]


def other_machine(folder: Path) -> str | None:
    """Why the wheels are not for this Python and system; None where they are."""
    about, here = json.loads((folder / ABOUT).read_text(encoding="utf-8")), this_machine()
    if all(about[key] == value for key, value in here.items()):
        return None
    of, this = (f"Python {at['python']}, {at['system']}, {at['machine']}" for at in (about, here))
    return f"its wheels are for {of}, this is {this}. Fix: use that Python, or make a wheelhouse with this one"


def check(folder: Path) -> str:
    """Compares every file with its hash, and the wheels with this machine.

    Returns:
        What was found, in one line.

    Raises:
        WheelhouseError: something is not as it should be; names each file.
    """
    problems = problems_of(folder)
    if problems:
        told = "\n  ".join(problems)
        raise WheelhouseError(f"{folder} is not whole:\n  {told}\nFix: copy these files again from where it was made")
    mismatch = other_machine(folder)
    if mismatch:
        raise WheelhouseError(f"{folder}: {mismatch}")
    names = list(read_sums(folder))
    size = sum((folder / name).stat().st_size for name in names)
    wheels = sum(name.startswith(f"{WHEELS}/") for name in names)
    return f"{folder} is whole: {len(names)} files, {wheels} of them wheels, {size / 1e9:.2f} GB"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; errors are one message and exit code 1."""
    parser = argparse.ArgumentParser(description="Wheels, weights and data for machines without a network.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    filling = verbs.add_parser("fill", help="on a machine with a package index")
    checking = verbs.add_parser("check", help="anywhere, before pip")
    for verb in (filling, checking):
        verb.add_argument("folder", type=Path)
    filling.add_argument("--extras", default="dev", help="of the package, with commas between them")
    filling.add_argument("--constraints", type=Path, help="file of pinned versions; default: that of the repository")
    filling.add_argument("--torch", help="another version than the pinned one, as 2.13.0+cpu")
    filling.add_argument("--weights", nargs="*", default=(), help="names of `cps4 weights`")
    filling.add_argument("--data", type=Path, help="folder of a data set to take along")
    given = vars(parser.parse_args(arguments))
    verb, folder = given.pop("verb"), given.pop("folder").resolve()
    try:
        if verb == "fill":
            fill(folder, **given)
        print(check(folder))
    except (WheelhouseError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
