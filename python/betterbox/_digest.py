"""`blake2b` as `hashlib` has it, without OpenSSL, which takes milliseconds to load."""

try:
    from _blake2 import blake2b  # type: ignore[import]
except ImportError:
    from hashlib import blake2b

__all__ = ["blake2b"]
