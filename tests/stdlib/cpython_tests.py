"""CPython's own multiprocessing tests, as classes of a module that worker processes can import.

The tests send their own classes and functions to workers by name. A worker could not find names of
a program's main module. The start method comes from the environment, since a worker that is not
forked imports this module again.
"""

import os

from test._test_multiprocessing import install_tests_in_module_dict

install_tests_in_module_dict(globals(), os.environ["CPOOL_TEST_START_METHOD"])
