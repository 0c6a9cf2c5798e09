"""Phantom spines: seeded 3-D T2w-like scans with label maps, for the demo, the tests and a first look."""

from __future__ import annotations

from cps4_monai.data.phantom.dataset import write_phantom_dataset
from cps4_monai.data.phantom.subject import Phantom, make_phantom

__all__ = ["Phantom", "make_phantom", "write_phantom_dataset"]
