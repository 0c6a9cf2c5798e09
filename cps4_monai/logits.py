"""The logit of what must not be chosen, said in one place."""

from __future__ import annotations

# exp() of it is exactly 0 in every precision; finite, so that it can be interpolated, 0 times it is 0, and a row of
# nothing else is no NaN.
NEVER = -1e4
