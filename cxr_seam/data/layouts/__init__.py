"""Read the tables of a dataset: one reader for each layout, all of which return a `DatasetMetadata`."""
