"""One file per library that is compared, and the limits; comparing/registry.py lists them."""
