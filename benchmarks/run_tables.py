"""What the tables and the page of a run of many scans cost, where the records stay in their sidecars, as on a cluster.

Run it by hand: ``python benchmarks/run_tables.py SIDECAR.json --scans 1000``, with the JSON of any result of `cps4
segment`, which stands in for that of each scan. It prints processor seconds, how often a sidecar was read, the peak of
Python's memory beyond what was there before, and the SHA-256 of all files, to be compared with another version's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
import tracemalloc
from pathlib import Path

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data.label_ownership import sidecar_of
from cps4_monai.inference import outcome as outcomes
from cps4_monai.inference.run_tables import run_tables
from cps4_monai.inference.scan_views import report_files


def stand_ins(sidecar: Path, folder: Path, count: int) -> list[outcomes.ScanOutcome]:
    """Outcomes as a cluster's workers answer, each with a copy of the sidecar."""
    made = []
    for number in range(count):
        name = f"scan{number:05d}"
        label = folder / f"{name}_dseg.nii.gz"
        record = outcomes.StoredRecord(Path(shutil.copyfile(sidecar, sidecar_of(label))))
        made.append(outcomes.ScanOutcome(Path(f"{name}.nii.gz"), name, "done", "", label, None, record))
    return made


def tables_and_page(scans: list[outcomes.ScanOutcome], folder: Path) -> str:
    """Makes all of them; SHA-256 of their contents."""
    digest = hashlib.sha256()
    for content in run_tables(scans, MRSPINESEG, folder).values():
        digest.update(content)
    for files in report_files(scans, MRSPINESEG, settings={}, views=False):
        for content in files.values():
            digest.update(content)
    return digest.hexdigest()


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sidecar", type=Path)
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--memory", action="store_true", help="trace Python's memory, which takes longer")
    arguments = parser.parse_args()
    read, reads = json.loads, [0]

    def counted(text: str) -> object:
        reads[0] += 1
        return read(text)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scans = stand_ins(arguments.sidecar, folder, arguments.scans)
        outcomes.json.loads = counted  # type: ignore[attr-defined]
        if arguments.memory:
            tracemalloc.start()
        started = time.process_time()
        digest = tables_and_page(scans, folder)
        seconds = time.process_time() - started
    peak = f", peak {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB" if arguments.memory else ""
    each = reads[0] / arguments.scans
    print(f"{arguments.scans} scans: {seconds:.2f} s, {each:.1f} reads a sidecar{peak}, {digest[:12]}")


if __name__ == "__main__":
    main()
