"""What is left of the differences of a study when the levels of every method's output are decoded.

    python benchmarks/decoded_outputs.py RUNS --study ratios_longer --section validation

A study scores the plain argmax; `cps4 segment` decodes the levels of a whole scan afterwards. This scores both, of the
deployed weights of all cells, on the network's own slices (not on the scan's grid, as the study does).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch


@torch.no_grad()
def score(cell, parser, volumes, anatomy, unannotated) -> list[dict]:
    """Rows of one cell: Dice (b) of argmax and of decoded levels, by subject."""
    from cps4_monai.levels import decode_levels
    from cps4_monai.losses.semi_supervised import mask_unannotated
    from cps4_monai.metrics.conventions import subject_scores

    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(cell.folder / "stage2" / "model.pt", weights_only=True))
    network.eval()
    rows = []
    for subject, image, label in volumes:
        slices = torch.from_numpy(np.array(image.array)).float()[:, None]
        logits = torch.cat([network(part) for part in slices.split(16)]).float()
        probabilities = mask_unannotated(logits, unannotated).softmax(dim=1)
        argmax = probabilities.argmax(dim=1).numpy()
        given = {"unannotated": unannotated, "view": image.view}
        decoded = decode_levels(argmax, probabilities.numpy(), image.spacing_mm, anatomy, **given)
        row = {"subject": subject, "method": cell.method, "share": cell.share, "seed": cell.seed}
        for name, labels in (("argmax", argmax), ("decoded", decoded.labels)):
            prediction = torch.from_numpy(np.ascontiguousarray(labels).astype(np.int64))
            row[name] = subject_scores(prediction, label, anatomy.num_classes, unannotated).dice_by["b"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--study", required=True)
    parser.add_argument("--section", default="validation", choices=("validation", "test"))
    parser.add_argument("--output", type=Path, help="CSV file of all rows")
    arguments = parser.parse_args()
    from cps4_monai.bench.comparison import paired
    from cps4_monai.bench.gallery import parsed_config
    from cps4_monai.bench.results import find_studies, load_results
    from cps4_monai.metrics.bootstrap import paired_comparison

    (manifest,) = find_studies(arguments.runs.resolve(), [arguments.study])
    results = load_results(manifest, arguments.runs.resolve(), arguments.section)
    parsed = parsed_config(results.cells[0]).get_parsed_content
    anatomy, cache, data = parsed("anatomy"), parsed("cache"), parsed("data")
    volumes = []
    for entry in data.sides[arguments.section]:
        label = torch.from_numpy(np.array(cache.label(entry.label, entry.image).array).astype(np.int64))
        volumes.append((entry.subject, cache.image(entry.image), label))
    rows = []
    for cell in results.cells:
        rows += score(cell, parsed_config(cell), volumes, anatomy, tuple(data.unannotated))
    frame = pd.DataFrame(rows)
    if arguments.output is not None:
        frame.to_csv(arguments.output, index=False)
    baseline = manifest["baseline"]
    print(f"Dice (b) on the network's slices, {arguments.section}; difference to {baseline} in points")
    print("| labeled | method | argmax | decoded | argmax: difference | decoded: difference |")
    print("|---|---|---|---|---|---|")
    for share in results.shares:
        for method in results.methods:
            own = frame[(frame["share"] == share) & (frame["method"] == method)]
            other = frame[(frame["share"] == share) & (frame["method"] == baseline)]
            if own.empty:
                continue
            cells = [f"{own.groupby('subject')[name].mean().mean():.3f}" for name in ("argmax", "decoded")]
            for name in ("argmax", "decoded"):
                pairs = paired(own, other, name)
                if method == baseline or pairs.empty:
                    cells.append("")
                    continue
                one = paired_comparison(pairs["first"].to_numpy(), pairs["second"].to_numpy())
                low, high = 100 * one.difference.low, 100 * one.difference.high
                cells.append(f"{100 * one.difference.mean:+.1f} [{low:+.1f}, {high:+.1f}], {one.wins} of {len(pairs)}")
            print(f"| {share} % | {results.methods[method]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
