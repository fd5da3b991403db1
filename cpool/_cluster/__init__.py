"""The pool on a dask.distributed cluster. Private; the public names are in `cpool.distributed`.

Where the modules run: `pool`, `jobs`, `results` and `keeper` in the program, `arbiter` in the
scheduler, `node` in each dask worker (a node of the pool), `worker` in the processes of a node's
pool. Only `keeper`, `arbiter`, `node` and `pool` import dask.
"""
