"""From the layouts in which public data sets come to this package's file names and codes."""

from __future__ import annotations

from cps4_monai.data.convert.mrspineseg import convert_mrspineseg
from cps4_monai.data.convert.record import Conversion
from cps4_monai.data.convert.spider import convert_spider

__all__ = ["Conversion", "convert_mrspineseg", "convert_spider"]
