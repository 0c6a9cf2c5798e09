"""MONAI dictionary transforms: augmentation of slices, and volumes in and label maps out for the bundle's configs."""
