"""Files, URLs, names and memory."""
