"""Timing that the comparisons of this folder share."""

import statistics
import time


def median_ms(run, seconds):
    """Median wall time of `run`, called for so long after two calls that warm the caches."""
    run(), run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)
