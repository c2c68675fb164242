"""Files, URLs and background threads: atomic writes, checksums, fsspec, prefetching."""
