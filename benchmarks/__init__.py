"""cpool beside other process pools and the machine's limits: `python -m benchmarks --help`."""
