"""Names and checksums in files that others wrote, and in listings of servers: checked before they become a path."""

import re

SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}")
"""Names of our own files: no separator, no leading dot, nothing that a shell or a URL takes for something else."""


def is_sha256(text: object) -> bool:
    """Whether it is a SHA-256 as hashlib writes it: 64 hexadecimal digits in lower case."""
    return isinstance(text, str) and SHA256.fullmatch(text) is not None


def is_file_name(text: object) -> bool:
    """Whether it names a file of its own folder: no path, no hidden file, no control character."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None
