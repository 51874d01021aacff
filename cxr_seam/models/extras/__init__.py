"""Poolings and refiners beside the paper's; `build_pooling` and `build_refiner` import them by name."""
