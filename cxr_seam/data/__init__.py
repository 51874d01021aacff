"""Read radiographs and labels, cache them at one size and turn batches into network input.

`layouts` reads the tables of datasets into `DatasetMetadata`, `split` selects the training images. `image_io` and
`dicom` read image files, `archives` and `cache` prepare them, `dataset` and `transforms` make batches, `download` gets
NIH's data.
"""
