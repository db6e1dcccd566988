"""`python -m benchmarks` is `python -m benchmarks.compare`."""

from .compare import main

main()
