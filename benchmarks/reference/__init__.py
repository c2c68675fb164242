"""MoleculeSDE as its specification writes it, with PyG's layers: the measure of our fast form, in values and in time.

To be read beside the specification (its section numbers are in brackets); nothing is shared with our layers but
configurations and tables of numbers. Every edge, padded atom pair and adjacency channel is computed as it is written
down. Followed too are the deviations of docs/deviations.md that change numbers: five chirality tags, all neighbours
within the cutoff, the sine of an angle from the cross product, and expm1 in the variance of VP. Every molecule needs a
conformer. Weights come from a module of ours (``parameters.py``), so nothing is initialised.

Symbols of shapes: ``g`` molecules, ``n`` atoms in all, ``s`` atoms of the largest, ``e`` directed edges, ``d`` width.
"""
