"""Pool, ThreadPool and the executors, on the extension. Private: see cpool.pool."""
