"""Plain functions over slots: no box, no server, no port. Run it with ``./dev py examples/sweep.py``."""

import betterbox


def points_inside(seed: int, draws: int = 200_000) -> int:
    """How many random points of the unit square lie in the quarter circle."""
    import numpy

    points = numpy.random.default_rng(seed).random((draws, 2))
    return int(((points**2).sum(axis=1) < 1.0).sum())


if __name__ == "__main__":
    with betterbox.LocalCluster(slots=2):
        inside = betterbox.map(points_inside, range(50)).compute(sum)
    print(f"pi is about {4 * inside / (50 * 200_000):.3f}")
