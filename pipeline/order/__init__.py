"""Sample order: which molecules each step of a training run takes, free of the number of processes.

The order is a pure function of (seed, epoch, step, lane)::

    shards   |   shard 4    |      shard 0      | shard 2 |   shard 1    |   one epoch, permuted by (seed, epoch)
    lanes    |           lane 0          |           lane 1          |   |   L equal lanes, here 2; the rest is left out

    pieces   | b0 | b1 | b2 | b0 | b1 |b2|   of lane 0: blocks of its shards, the last one cut
    windows  |   window 0   |  window 1  |   of lane 0: pieces that are shuffled together, here 3
    steps    |  0   |  1   |  2   |  3   |   each takes micro_batch samples, step 2 from two windows

==========  ===========================================================================================================
order       Which sample comes when: ``LaneOrder`` for the lanes of one dataset, ``StepOrder`` for all steps.
sample      A molecule at its position in the order; in an epoch each comes at most once.
lane        One of L equal parts of every epoch, L fixed for a training run. A lane is an endless sequence of samples,
            epoch after epoch; every step takes the next ``micro_batch`` samples of each lane.
block       Some hundred molecules that are stored together in a shard: the unit of reading.
piece       The rows of one block that belong to a lane: all of them, unless the lane begins or ends inside the block.
window      ``window_blocks`` consecutive pieces of a lane. Its samples are shuffled; it is in memory while it is read.
part        The samples of one window that one step takes.
run         What ``LaneReader`` returns: samples that follow each other in a lane, from one window of one epoch. A step
            that goes beyond the end of a window gets two runs.
share       How many of a lane's samples come from each dataset of a mixture, by the datasets' weights (``Shares``).
rank        Of one of W processes: its number; it serves the lanes rank, rank + W, rank + 2 W, ...
            Of a part, with length buckets: a number drawn from (seed, step, lane); the part of the lowest rank gets the
            smallest molecules of the window (``dealt``).
==========  ===========================================================================================================

``lanes`` cuts an epoch into lanes and windows, ``steps`` divides lanes among steps, ``mixture`` puts several datasets
together, and ``lane_reader`` reads what the order asks for.
"""
