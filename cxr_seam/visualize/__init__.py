"""Draw heat maps, figures, the interactive viewer and the report."""
