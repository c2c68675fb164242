"""MMSA-style pretraining: codes of several modalities of a molecule, and a hypergraph and a memory across molecules.

After the abstract of Yin et al. 2025 (arXiv 2505.05877, MMSA), whose formulas are not public; it is not a reproduction.
The formulas are those of HGM2R (Feng et al., "Hypergraph-Based Multi-Modal Representation for Open-Set 3D Object
Retrieval", TPAMI) where they apply, and our own; ``docs/deviations.md`` says which.
"""
