"""What knows files, many molecules or many machines: readers, stages, shards, manifests, sample order, Ray."""
