"""Read radiographs and labels, cache them at one size and turn batches into network input.

`nih` reads the tables into `NihMetadata`; a reader of another dataset returns the same. `image_io` and `dicom` read
image files, `archives` and `cache` prepare them, `dataset` and `transforms` make batches, `download` gets NIH's data.
"""
