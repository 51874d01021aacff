"""Turn a checkpoint and an image into scores, heat maps and boxes."""
