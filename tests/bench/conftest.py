"""A study on the tiny phantom, with networks and budgets of a second or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def tiny_settings(tiny_overlay: Path) -> dict[str, Any]:
    settings = json.loads(tiny_overlay.read_text())
    return {k: v for k, v in settings.items() if k not in ("device_name", "min_free_gib", "show_progress", "log_every")}


@pytest.fixture
def write_study(tmp_path: Path, tiny_settings: dict[str, Any]):
    """Writes a study of tiny size: ``write_study([names], [shares], settings={...}, **keys)`` -> its path."""

    def write(names: list[str], shares: list[Any], settings: dict[str, Any] | None = None, **keys: Any) -> Path:
        content = {
            "name": "tiny",
            "settings": {**tiny_settings, **(settings or {})},
            "matrix": [{"methods": names, "shares": shares}],
            **keys,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write
