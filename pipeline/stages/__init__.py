"""What is done to the rows of a split, in this order: describe, duplicates and decontamination, conformers."""
