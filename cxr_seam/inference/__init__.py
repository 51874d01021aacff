"""Turn a checkpoint and an image into probabilities, heat maps and boxes."""
