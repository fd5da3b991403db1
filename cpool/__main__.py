"""python -m cpool SCRIPT [ARG...], python -m cpool -m MODULE [ARG...]: run a program on cpool."""

from __future__ import annotations

from ._program.run import main

if __name__ == "__main__":
    main()
