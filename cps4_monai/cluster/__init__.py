"""Work for the workers of a Dask cluster, which nothing here imports before a scheduler is named."""
