"""Methods as their specifications write them: the measure of our fast forms, in values and in time.

To be read beside the specification (its section numbers are in brackets); nothing is shared with our layers but
configurations and tables of numbers. Every edge, padded atom pair and adjacency channel is computed as it is written
down. Symbols of shapes of MoleculeSDE: ``g`` molecules, ``n`` atoms in all, ``s`` atoms of the largest, ``e`` directed
edges, ``d`` width; of MoleBLEND: ``B`` molecules, ``N`` atoms of the largest.

``moleculesde`` has PyG's layers. Followed too are the deviations of docs/deviations.md that change numbers: five
chirality tags, all neighbours within the cutoff, the sine of an angle from the cross product, and expm1 in the variance
of VP. Every molecule needs a conformer. Weights come from a module of ours (``parameters.py``), so nothing is
initialised.

``moleblend`` has dense pair tensors, relations computed on the CPU, and heads on outer products. What it changes in the
released code is listed there.
"""
