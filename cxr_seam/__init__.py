"""Find lung abnormalities on chest X-rays from image-level labels alone.

An implementation of D'Souza, Reddy and Manjunath, "Localization of lung abnormalities on chest X-rays using
self-supervised equivariant attention", Biomedical Engineering Letters 13 (2023), called "the paper" throughout.

The modules in the order of the paper's story: findings, recipes, pooling, cams, pcm, losses, geometry, boxes
(they stand alone); radiographs, nih, phantom, store (data); augment, backbones, models (Sect. 4.1);
training and seam (Sect. 4.3, 4.4); classification, localization, evaluation (Sect. 5); predict, plots, explorer.
"""

__version__ = "0.1.0"
