"""The stages that turn input splits into shards and Parquet tables. The driver, ``pipeline/build.py``, runs them in
this order:

1. ``describe``: parent molecule, key and graph of every row, cheaply. Rows that cannot be read are rejected, rows that
   a benchmark set holds are left out (``decontaminate``).
2. ``dedup``: over all splits, of all rows of one identity the first is kept. When molecules are appended to a dataset,
   ``known`` first leaves the hashes of the molecules that it holds.
3. ``conformers``: positions for the rows that are left, the shard, and the commit of the split.
4. ``merge``: the dropped rows of all splits, in one Parquet file for each reason why rows are dropped.

``describe`` and ``conformers`` do one split per task and ``dedup`` one range of hashes; each task writes files that are
there whole or not at all, so a task that is repeated finds its result. What they share: ``task`` (a split as work, and
its commit), ``described`` (schemas between the stages), ``dropped`` (tables of rows that are not written), ``tally``
(counts and times for reports), ``worker`` (the sandbox of a worker process), ``bisect`` (the search for rows that kill
workers).
"""
