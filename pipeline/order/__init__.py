"""Sample order, as pure functions of seed, epoch, step and lane, and never of the number of processes."""
