"""Read radiographs and labels, cache them at one size and turn batches into network input."""
