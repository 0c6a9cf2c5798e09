"""Volume in, label map out."""
