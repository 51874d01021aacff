"""Networks: backbones, merge blocks, pooling, class activation maps, the PCM and checkpoints."""
