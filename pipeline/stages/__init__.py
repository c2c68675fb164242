"""The stages that turn input splits into shards and Parquet tables; ``pipeline/build.py`` runs them in this order:

1. ``describe``: parent molecule, key and graph of every row, cheaply. Rows that cannot be read are rejected, rows that
   a benchmark set holds are left out (``decontaminate``).
2. ``dedup``: of all rows of one identity, over all splits, the first is kept. When molecules are appended to a dataset,
   ``known`` first writes the hashes of the molecules that it holds.
3. ``conformers``: positions for the rows that are left, the shard, and the commit of the split.
4. ``merge``: the dropped rows of all splits in one Parquet file for each kind: rejected, duplicates, decontaminated.

A task of ``describe`` or ``conformers`` does one split, a task of ``dedup`` one range of hashes. Each writes files that
are complete or absent, so that a repeated task finds what is done.

The stages share ``task`` (a split as work, and its commit), ``described`` (schemas between the stages), ``dropped``
(tables of rows that are not written), ``tally`` (counts and times for reports), ``worker`` (the sandbox of a worker
process) and ``bisect`` (the search for rows that kill workers).
"""
