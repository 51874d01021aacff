"""Score classification and localization: AUC, box overlap, FROC, pointing game, outlines, bootstrap."""
