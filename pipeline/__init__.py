"""Files, many molecules and many machines: sources, shards, manifests, sample order and the Ray job."""
