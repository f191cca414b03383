"""The parts of the load-balancing benchmark (benchmarks/balance.py)."""
