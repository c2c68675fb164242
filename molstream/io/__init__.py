"""Files, URLs and threads: atomic writes, fsspec, work ahead of need."""
