"""The coded bundle and scans of tests/inference, for the command's tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "coded_fixtures", Path(__file__).resolve().parents[1] / "inference" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
import sys  # noqa: E402

sys.modules[_spec.name] = _fixtures  # dataclasses look their module up
_spec.loader.exec_module(_fixtures)
bundle_dir, edited_bundle, make_scan = _fixtures.bundle_dir, _fixtures.edited_bundle, _fixtures.make_scan
