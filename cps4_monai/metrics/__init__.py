"""How good a label map is: overlap, surface distances, averaging conventions, intervals over patients, tables."""
