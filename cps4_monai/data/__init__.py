"""From NIfTI volumes to batches of normalised sagittal slices, and back to the scan's own grid."""
