"""Compares cpool with other pools and with the machine's limits: `python -m benchmarks --help`."""
