"""What may go wrong while reading or converting: every message says what is wrong and what to do.

ConvertError    a file cannot be read (missing, truncated, not a GGUF, a Git LFS pointer)
└── Refused     the file reads well, but GGUF cannot express it or it does not belong to this base
"""


class ConvertError(Exception):
    """A file that cannot be read as what it claims to be."""


class Refused(ConvertError):
    """An adapter that would be wrong if it were converted or served; the message carries the remedy."""
