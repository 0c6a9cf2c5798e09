"""Where the bundle that belongs to this package lies."""

from __future__ import annotations

import sysconfig
from pathlib import Path


def find_bundle_root() -> Path:
    """Folder of the bundle that belongs to this package: the one that holds ``configs/metadata.json``.

    It is the package's own parent in an exported bundle, ``bundle`` beside the package in a checkout, and
    ``share/cps4_monai/bundle`` under the environment's data folder after a plain installation.

    Raises:
        FileNotFoundError: none of the three is there.
    """
    package = Path(__file__).resolve().parent
    places = [package.parent, package.parent / "bundle", Path(sysconfig.get_path("data")) / "share/cps4_monai/bundle"]
    for place in places:
        if (place / "configs" / "metadata.json").is_file():
            return place
    raise FileNotFoundError(
        f"no bundle beside the package: looked for configs/metadata.json in {[str(p) for p in places]}; "
        "pass bundle_root, or install the package again"
    )
