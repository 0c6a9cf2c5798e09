"""Which methods there are, read out of the overlays of the bundle and the classes that they name."""

from __future__ import annotations

from cps4_monai.method_list.entries import MethodEntry, list_methods, method_of
from cps4_monai.method_list.options import Option, options_of

__all__ = ["MethodEntry", "Option", "list_methods", "method_of", "options_of"]
