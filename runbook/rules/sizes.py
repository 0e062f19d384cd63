"""Sizes for people."""

from __future__ import annotations


def size_in_words(size_bytes: float) -> str:
    """Return a size of bytes for people, in its largest unit: `812 bytes`, `3.4 MiB`; rounded."""
    if size_bytes < 1024:
        return "1 byte" if size_bytes == 1 else f"{size_bytes:.0f} bytes"
    size = size_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if size < 1023.95:  # more would be shown as 1024.0
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
