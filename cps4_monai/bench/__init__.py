"""Studies: methods by labeled share and seed, each cell a run of the bundle, and the report that compares them."""
