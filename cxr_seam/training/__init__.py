"""Train both stages: losses, the SEAM step, optimiser, epochs, resuming and storage."""
