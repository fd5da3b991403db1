"""The two kinds of pools, on the extension. Private; `cpool.pool` has their names."""
