"""Tests of cpool.distributed. A package, so that its tests share one cluster."""
