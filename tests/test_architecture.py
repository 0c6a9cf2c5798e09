"""Imports point one way, and what must stay light imports nothing heavy (docs/architecture.md)."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cps4_monai"

# Room -> the rooms that it may import. Anything not listed is an error, a room that is not listed too.
ALLOWED: dict[str, set[str]] = {
    "anatomy": set(),
    "attention_maps": set(),
    "encoding": set(),
    "atomic_file": {"encoding"},
    "scan_names": set(),
    "run_folder": set(),
    "bundle_root": {"run_folder"},
    "failure": set(),
    "file_hash": {"atomic_file", "bundle_root"},
    "logits": set(),
    "plan": {"anatomy", "atomic_file", "bundle_root", "true_or_false"},
    "true_or_false": set(),
    "cache_folder": set(),
    "extras": {"failure"},
    "cluster": {"extras", "sigterm", "threads"},
    "pictured": {"anatomy"},
    "palette": {"anatomy"},
    "device": set(),
    "precision": {"true_or_false"},
    "processes": set(),
    "sigterm": set(),
    "threads": set(),
    "pretrained": {"atomic_file", "cache_folder", "extras", "file_hash"},
    "text": {"atomic_file", "pretrained"},
    "losses": {"anatomy", "attention_maps", "logits"},
    "networks": {"bundle_root", "extras", "file_hash"},
    "metrics": {"anatomy", "atomic_file", "levels"},
    "levels": {"anatomy"},
    "vision": {"anatomy", "atomic_file", "attention_maps", "file_hash", "logits", "plan", "pretrained"},
    "vlm": {"attention_maps", "text", "vision"},
    "prompt_map": {"anatomy", "attention_maps", "vision"},
    "vessa": {"anatomy", "atomic_file", "file_hash", "losses", "networks", "plan", "vision"},
    "methods": {"attention_maps", "losses", "networks"},
    "engines": {"losses", "methods", "precision"},
    "handlers": {
        "anatomy", "atomic_file", "attention_maps", "encoding", "engines", "file_hash", "levels", "logits", "losses",
        "metrics", "networks", "palette", "plan", "run_folder",
    },
    "data": {
        "anatomy", "atomic_file", "encoding", "extras", "file_hash", "logits", "scan_names", "threads", "true_or_false",
    },
    "transforms": {"anatomy", "data", "file_hash", "scan_names", "true_or_false"},
    "evaluation": {"anatomy", "atomic_file", "data", "encoding", "file_hash", "metrics", "scan_names"},
    "report": {
        "anatomy", "atomic_file", "data", "evaluation", "levels", "metrics", "palette", "scan_names", "vision",
    },
    "preflight": {"anatomy", "atomic_file", "data", "file_hash", "run_folder", "scan_names"},
    "inference": {
        "anatomy", "atomic_file", "bundle_root", "cluster", "data", "device", "encoding", "evaluation", "extras",
        "file_hash", "levels", "metrics", "networks", "palette", "plan", "precision", "report", "run_folder",
        "scan_names", "transforms",
    },
    "known_settings": set(),
    "fingerprint": {"file_hash", "known_settings"},
    "assembly": {
        "anatomy", "data", "engines", "file_hash", "fingerprint", "handlers", "inference", "levels", "methods",
        "metrics", "networks", "plan", "precision", "preflight", "prompt_map", "run_folder", "transforms", "vision",
    },
    "workflow": {
        "atomic_file", "bundle_root", "failure", "fingerprint", "known_settings", "preflight", "run_folder",
        "training_lock",
    },
    "training_lock": set(),
    "export": {
        "anatomy", "atomic_file", "bundle_root", "evaluation", "file_hash", "inference", "networks", "pictured", "plan",
        "run_folder", "vision",
    },
    "demo": {"data", "evaluation", "report", "run_folder", "workflow"},
    "finetune_start": {
        "anatomy", "atomic_file", "bundle_root", "data", "file_hash", "inference", "plan", "run_folder", "workflow",
    },
    "rounds": {
        "anatomy", "atomic_file", "bundle_root", "data", "export", "failure", "file_hash", "inference", "methods",
        "run_folder", "training_lock", "workflow",
    },
    "bench": {
        "anatomy", "atomic_file", "bundle_root", "cluster", "data", "device", "evaluation", "failure", "file_hash",
        "fingerprint", "handlers", "known_settings", "metrics", "pretrained", "report", "run_folder", "sigterm",
        "threads", "vision", "workflow",
    },
    "method_list": {"fingerprint", "known_settings"},
    "commands": {
        "anatomy", "atomic_file", "bench", "bundle_root", "cluster", "data", "demo", "device", "encoding", "evaluation",
        "export", "failure", "file_hash", "finetune_start", "inference", "method_list", "pictured", "plan",
        "pretrained", "report", "rounds", "run_folder", "threads", "workflow",
    },
    "cli": {"commands", "encoding", "extras", "threads"},
}  # fmt: skip
HEAVY = {
    "torch",
    "monai",
    "transformers",
    "timm",
    "matplotlib",
    "pandas",
    "SimpleITK",
    "pydicom",
    "numpy",
    "nibabel",
    "scipy",
    "dask",
    "distributed",
}


def module_name(file: Path) -> str:
    parts = list(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported_rooms(file: Path) -> set[str]:
    """Rooms that a file imports, at its top or within functions."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import in line {node.lineno}; imports here are absolute"
            # "from cps4_monai import data" names a room, "from cps4_monai import __version__" does not.
            names = [f"{node.module}.{alias.name}" for alias in node.names if alias.name in ALLOWED]
            modules += names if node.module == PACKAGE.name else [str(node.module)]
    return {room_of(module) for module in modules if module.split(".")[0] == PACKAGE.name} - {""}


def test_the_table_itself_has_no_cycle():
    order = tuple(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert set(order) == set(ALLOWED)


def test_every_room_is_in_the_table():
    rooms = {room_of(module_name(file)) for file in PACKAGE.rglob("*.py")} - {""}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_before_it(room):
    files = [file for file in PACKAGE.rglob("*.py") if room_of(module_name(file)) == room]
    wrong = {
        f"{file.relative_to(PACKAGE)} imports {other}"
        for file in files
        for other in imported_rooms(file) - ALLOWED[room] - {room}
    }
    assert not wrong, "move the code, or change the table and docs/architecture.md"


# What opens a file for writing elsewhere than in atomic_file.py, and why it may.
WRITES = {
    "data/datalist_file.py": "fills the file that the atomic writer gives it",
    "export/bundle.py": "fills a staging folder, of which one zip is written atomically",
    "failure.py": "a log, appended to",
    "metrics/run_log.py": "a log, appended to",
    "pretrained/fetch.py": "fills the folder that the atomic writer gives it",
    "pretrained/store.py": "the same folder",
}


def writes_in_place(file: Path) -> bool:
    """Whether a file of the package writes a file by name, without the atomic writer around it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            strings = [
                arg.value for arg in [*node.args, *(k.value for k in node.keywords)] if isinstance(arg, ast.Constant)
            ]
            table = name == "to_csv" and node.args
            if (
                name in ("write_text", "write_bytes")
                or table
                or (name == "open" and {"w", "a", "wb", "x"} & set(strings))
            ):
                return True
    return False


def test_files_are_written_by_the_atomic_writer():
    writers = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if writes_in_place(file)}
    assert writers - {"atomic_file.py"} == set(WRITES), "write_atomically, or say here why not"


def test_package_and_command_line_import_nothing_heavy():
    code = (
        "import sys, importlib, pkgutil, cps4_monai, cps4_monai.cli, cps4_monai.commands as commands\n"
        "for module in pkgutil.iter_modules(commands.__path__):\n"
        "    importlib.import_module('cps4_monai.commands.' + module.name)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_architecture_page_shows_every_room():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in ALLOWED if f"`{room}" not in page] == []
