"""The parts of the comparison with other libraries (benchmarks/peers.py)."""
