"""Where the bundle that belongs to this package lies, and its weights in it."""

from __future__ import annotations

from pathlib import Path

from cps4_monai.run_folder import STAGE1_WEIGHTS

BUNDLE_WEIGHTS = Path("models") / "model.pt"  # in the folder of a bundle
BUNDLE_STAGE1 = Path("models") / STAGE1_WEIGHTS  # likewise: image side and embeddings of the prompts


def weights_in(place: Path) -> Path:
    """The weights that a path names: those of a bundle where it is a folder, else the file itself."""
    return place / BUNDLE_WEIGHTS if place.is_dir() else place


def find_bundle_root() -> Path:
    """Folder of the bundle that belongs to this package: the one that holds ``configs/metadata.json``.

    It is ``bundle`` within an installed package, the package's own parent in an exported bundle, and ``bundle`` beside
    the package in a checkout.

    Raises:
        FileNotFoundError: none of the three is there.
    """
    package = Path(__file__).resolve().parent
    places = [package / "bundle", package.parent, package.parent / "bundle"]
    for place in places:
        if (place / "configs" / "metadata.json").is_file():
            return place
    raise FileNotFoundError(
        f"no bundle in or beside the package: looked for configs/metadata.json in {[str(p) for p in places]}; "
        "pass bundle_root, or install the package again"
    )
