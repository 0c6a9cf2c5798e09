"""Predictions against labels, on the grid of the scan: which file belongs to which, one case, a whole folder."""
