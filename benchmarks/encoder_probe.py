"""How much a frozen vision encoder knows of spine MRI: a linear probe on its patch tokens; prints a table.

    python benchmarks/encoder_probe.py --datalist SPIDER/splits.json [--arms random:8:0.9375 vit-s-focus:8:0.9375]

An arm is WEIGHTS:PATCH:SPACING: "random", a name of `cps4 weights` or a file; pixels of a patch; mm of a pixel. Patches
of all arms should cover the same body (PATCH x SPACING), so that all have one grid. A multinomial logistic regression
from token to the shares of the classes in its patch is fitted on slices of labeled training subjects; its logits,
upsampled bilinearly, are scored on slices of the validation subjects. No test subject is read.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datalist import Datalist, load_datalist
from cps4_monai.data.entries import Entry
from cps4_monai.data.in_plane import InPlane
from cps4_monai.vision import VisionEncoder

KINDS = {kind: torch.tensor([s.code for s in MRSPINESEG.structures if s.kind == kind]) for kind in ("vertebra", "disc")}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--labeled-share", default=None, help="subset of the training subjects, as in the datalist")
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--arms", nargs="+", default=["random:8:0.9375", "vit-s-focus:8:0.9375"])
    parser.add_argument("--extent-mm", type=float, nargs=2, default=(300.0, 150.0), metavar=("H", "W"))
    parser.add_argument(
        "--label-spacing", type=float, default=0.9375, help="mm of a pixel on which all arms are scored"
    )
    parser.add_argument("--slices", type=int, default=2, help="per training subject, evenly spaced within the volume")
    parser.add_argument("--validation-slices", type=int, default=4, help="per validation subject")
    parser.add_argument("--weight-decay", type=float, default=1e-3, help="L2 weight of the regression")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    return parser.parse_args()


def chosen(slices: int, count: int) -> np.ndarray:
    """Positions of ``count`` slices in the middle four fifths of a volume: the outermost show few structures."""
    return np.unique(np.linspace(0.1 * (slices - 1), 0.9 * (slices - 1), count).round().astype(int))


def slices_at(folder: Path, extent_mm: tuple[float, float], spacing_mm: float, multiple: int) -> SliceCache:
    """Slices of about the extent, their height and width multiples of the patch."""
    height, width = (round(mm / spacing_mm / multiple) * multiple for mm in extent_mm)
    return SliceCache(folder, InPlane(size=(height, width), spacing_mm=spacing_mm), num_classes=MRSPINESEG.num_classes)


@torch.no_grad()
def tokens_of(encoder: VisionEncoder, cache: SliceCache, entries: Sequence[Entry], count: int) -> list[torch.Tensor]:
    """Patch tokens (S, D, h, w) of the chosen slices of each entry."""
    found = []
    for entry in entries:
        array = cache.image(entry.image).array
        image = torch.from_numpy(np.asarray(array[chosen(len(array), count)], dtype=np.float32))[:, None]
        found.append(torch.cat([encoder(part) for part in image.split(4)]))
    return found


def labels_of(cache: SliceCache, entries: Sequence[Entry], count: int) -> list[torch.Tensor]:
    """Codes (S, H, W) of the same slices."""
    arrays = [cache.label(entry.label, entry.image).array for entry in entries if entry.label is not None]
    return [torch.from_numpy(np.asarray(a[chosen(len(a), count)]).astype(np.int64)) for a in arrays]


def shares_of(label: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """(S, C, h, w): which share of each patch each class takes; what nobody annotated (255) is of no class."""
    masks = (label[:, None] == torch.arange(MRSPINESEG.num_classes).view(1, -1, 1, 1)).float()
    return F.adaptive_avg_pool2d(masks, grid_size)


def flat(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Maps (S, K, h, w) of all subjects as rows (N, K)."""
    return torch.cat([one.movedim(1, -1).flatten(0, -2) for one in maps])


def fit(features: torch.Tensor, shares: torch.Tensor, weight_decay: float) -> torch.nn.Linear:
    """Multinomial logistic regression from (N, D) to shares (N, C) of classes, by L-BFGS from zero."""
    probe = torch.nn.Linear(features.shape[1], shares.shape[1])
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.zeros_(probe.bias)
    optimiser = torch.optim.LBFGS(probe.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(probe(features), shares) + weight_decay * probe.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return probe


def scores(predicted: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Of one subject: Dice of all vertebrae and of all discs, share of the labeled foreground with its right name."""
    found = {}
    for kind, codes in KINDS.items():
        ours, theirs = torch.isin(predicted, codes) & (label != NOT_ANNOTATED), torch.isin(label, codes)
        found[kind] = float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()).clamp(min=1))
    named = (label > 0) & (label != NOT_ANNOTATED)
    return {**found, "level": float((predicted == label)[named].float().mean())}


def probe_arm(arm: str, options: argparse.Namespace, data: Datalist, folder: Path) -> list[dict[str, float]]:
    """Scores of each validation subject with one arm."""
    weights, patch, spacing = arm.rsplit(":", 2)
    pictures = slices_at(folder, options.extent_mm, float(spacing), int(patch))
    reference = slices_at(folder, options.extent_mm, options.label_spacing, 1)
    torch.manual_seed(options.seed)
    start = {"pretrained": False} if weights == "random" else {"checkpoint_path": weights}
    assert pictures.in_plane.size is not None  # slices_at sets it
    encoder = VisionEncoder(options.model, pictures.in_plane.size, patch_size=int(patch), **start).eval()
    taken = tokens_of(encoder, pictures, data.labeled, options.slices)
    label = labels_of(reference, data.labeled, options.slices)
    rows = flat(taken)
    mean, std = rows.mean(0), rows.std(0).clamp(min=1e-6)
    targets = flat([shares_of(one, encoder.grid_size) for one in label])
    probe = fit((rows - mean) / std, targets, options.weight_decay)
    found = []
    held_out = zip(
        tokens_of(encoder, pictures, data.validation, options.validation_slices),
        labels_of(reference, data.validation, options.validation_slices),
        strict=True,
    )
    for one, truth in held_out:
        with torch.no_grad():
            logits = probe((one.movedim(1, -1) - mean) / std).movedim(-1, 1)
        logits = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
        found.append(scores(logits.argmax(1), truth))
    return found


def main() -> None:
    options = parse()
    data = load_datalist(options.datalist, labeled_share=options.labeled_share, require=["labeled", "validation"])
    print(f"{options.model}, seed {options.seed}, weight decay {options.weight_decay:g}, torch {torch.__version__}")
    print(f"training: {len(data.labeled)} subjects, {options.slices} slices each")
    print(f"validation: {len(data.validation)} subjects, {options.validation_slices} slices each")
    print("arm (weights:patch:mm), vertebra Dice, disc Dice, right level, processor seconds")
    with tempfile.TemporaryDirectory() as folder:
        for arm in options.arms:
            started = time.process_time()
            rows = probe_arm(arm, options, data, Path(folder))
            means = [f"{np.mean([row[key] for row in rows]):.3f}" for key in ("vertebra", "disc", "level")]
            each = " ".join(f"{row['level']:.2f}" for row in rows)
            print(f"{arm:28s} {'  '.join(means)}  (each subject {each})  {time.process_time() - started:.0f} s")


if __name__ == "__main__":
    main()
