"""The tests of `cpool.Pool` that hold for a pool on a cluster too: the same functions.

All tests of the files below that take a pool run here, except those that `LEFT_OUT` names, with the
reason. `pool` is one worker on each of two nodes here, `make_pool(2)` two workers on one node.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

TESTS = Path(__file__).parents[1]

LOCAL = "about a pool of this process: its classes, its own engine, or a pool of threads"
CHUNKS = "about the default chunks, which follow the measured time on a cluster"
ITEMS = "a chunk of several items is one task of its node: see docs/cluster.md"
STDERR = "looks at what workers write to stderr, which is that of the node: test_cluster has a test"
VALUE = "puts a lock into a class, which travels by value here: test_cluster has a test"
ORDER = "the order of callbacks, where results come through the scheduler: see docs/cluster.md"
BY_VALUE = "lambdas and the test's own module travel by value here: test_cluster has a test"
LATER = "a cancelled chunk may begin before its node hears of it: test_cluster has a test"
LIMIT = "asks for a time that dask does not keep under load: test_cluster or test_waiting has one"
SLOW = "makes hundreds of calls, each of which is a round trip here: test_cluster has a short one"
INTERRUPTS = "KeyboardInterrupt and sys.exit() in a task are its failure here: see docs/cluster.md"
RANDOM = (
    "hypothesis fails where another thread uses `random`, as dask's do: test_cluster has a test"
)

LEFT_OUT: dict[str, dict[str, str]] = {
    "task/test_map": {
        LOCAL: "a_job_without_a_task",
        CHUNKS: "the_default_chunksize_makes_four_chunks_per_worker",
        RANDOM: "map_equals_the_builtin_for_any_list",
    },
    "task/test_starmap": {},
    "task/test_apply": {
        SLOW: "two_threads_of_the_parent_use_one_pool",
    },
    "task/test_chunks": {
        LOCAL: "a_thread_has_64_chunks a_custom_mapper",
        CHUNKS: """
            a_callable_with_state_is_sent_once_per_chunk
            items_that_share_an_object_are_in_the_stdlibs_chunks
            items_that_begin_to_share_an_object_are_in_the_stdlibs_chunks
            an_object_that_items_share_is_pickled_once_per_chunk
            a_long_object_that_items_share_is_sent_once_per_chunk
            maxtasksperchild_counts_the_stdlibs_chunks
            slow_neighbouring_items_run_at_the_same_time
        """,
    },
    "job/test_results": {
        LOCAL: "the_classes",
        ORDER: "callbacks_come_in_the_order_of_the_results",
        VALUE: """
            time_limits_hold_while_another_thread_rebuilds_the_value
            what_rebuilds_a_value_waits_for_it
        """,
    },
    "job/test_imap": {
        LOCAL: "chunksize_one_gives_the_iterator_itself a_stop_iteration_of_a_thread",
        SLOW: "a_reader_gets_every_result_although_another_thread_joins",
        LIMIT: """
            a_source_that_blocks_is_overtaken_by_others
            a_source_that_uses_its_pool_pulls_inside_a_pull
        """,
        RANDOM: "imap_equals_the_builtin_for_any_list",
    },
    "job/test_failures": {
        INTERRUPTS: "sys_exit_fails_the_task",
        STDERR: "a_failing_initializer_fails_every_job",
    },
    "job/test_misbehaving_callbacks": {
        ORDER: "a_callback_cannot_wait_for_itself",
    },
    "control/test_cancel": {
        ITEMS: "a_chunk_of_quick_items_is_killed",
        SLOW: "one_outcome_each",
        LIMIT: "many_queued_calls_are_cancelled",
        LATER: """
            what_has_not_begun_is_withdrawn closing_an_iterator_withdraws_the_rest
            items_of_chunks_are_withdrawn
        """,
    },
    "control/test_as_completed": {},
    "control/test_items": {
        ITEMS: "a_lost_chunk_stands_among_results",
        INTERRUPTS: "an_exit_ends_its_chunk",
        BY_VALUE: """
            values_that_cannot_be_pickled_stand_alone an_exception_of_a_chunk_names_its_item
        """,
    },
    "faces/test_progress": {
        ITEMS: "the_count_grows_within_a_chunk nothing_is_taken_back_where_a_chunk_is_lost",
    },
}


def load(name: str) -> ModuleType:
    """The module of a test file, without its fixtures and its own collection."""
    spec = importlib.util.spec_from_file_location(
        f"same_{name.replace('/', '_')}", TESTS / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


POOLS = {"pool", "make_pool", "either"}
MISSING: list[str] = []
for place, reasons in LEFT_OUT.items():
    loaded = load(place)
    left_out = {f"test_{name}" for names in reasons.values() for name in names.split()}
    MISSING += [f"{place}::{name}" for name in left_out - set(vars(loaded))]
    fixtures = {
        name: value
        for name, value in vars(loaded).items()
        if type(value).__name__ == "FixtureFunctionDefinition"
    }
    globals().update(fixtures)
    for name, value in vars(loaded).items():
        if name.startswith("test_") and callable(value) and name not in left_out:
            if POOLS.union(fixtures).isdisjoint(inspect.signature(value).parameters):
                continue
            globals()[f"test_{place.rpartition('test_')[2]}_{name.removeprefix('test_')}"] = value


@pytest.mark.better
def test_tests_that_are_left_out_exist() -> None:
    assert not MISSING
