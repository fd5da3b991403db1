"""The tests of `cpool.Pool` that hold for a pool on a cluster too: the same functions.

`pool` is one worker on each of two nodes here, `make_pool(2)` two workers on one node.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parents[1]

SAME = {
    "task/test_map": """
        map_equals_the_builtin any_iterable_will_do many_small_items
        parameters_have_the_documented_names
        callbacks_by_position a_chunk_runs_in_one_worker
        the_items_of_a_chunk_run_in_order a_chunksize_below_one_runs_nothing
         a_refused_call_leaves_no_job
         a_map_of_no_items_is_ready_at_once
         a_non_iterable_is_refused_at_once
        the_caller_exhausts_a_generator
        an_exception_of_a_sized_iterable_fails_the_job the_exception_of_an_item_is_raised
        a_failure_waits_for_the_other_chunks a_failure_ends_only_its_chunk
        an_unpicklable_item_fails_only_its_chunk two_jobs_at_once_do_not_mix
        a_finished_job_releases_its_objects an_iterable_that_ends_the_pool_within_a_chunk
    """,
    "task/test_starmap": """
        starmap_equals_itertools_starmap an_item_is_any_iterable_of_arguments
        parameters_have_the_documented_names callbacks_get_the_whole_list_or_the_failure
        an_item_that_cannot_be_unpacked_fails_in_the_worker wrong_arguments_fail_in_the_worker
         starmap_async_does_not_wait
    """,
    "task/test_apply": """
        apply_and_apply_async_call_the_function parameters_have_the_documented_names
        callbacks_by_position
        arguments_are_taken_when_the_call_is_made apply_async_does_not_wait
        tasks_start_in_the_order_of_submission
        a_slow_task_does_not_delay_later_tasks the_exception_of_the_function_is_raised
         the_cause_is_the_traceback_in_the_worker
        the_only_cause_of_an_exception_is_the_remote_traceback
        a_wrong_call_fails_as_a_local_call_does a_call_without_the_parameters_is_refused_at_once
        a_blocked_apply_ends_with_its_own_task
    """,
    "task/test_chunks": """
        every_result_is_in_its_place an_explicit_chunksize_is_exact one_failure_fails_the_whole_map
    """,
    "job/test_results": """
        a_pending_result_becomes_ready get_gives_up_after_the_timeout

        the_timeout_of_a_ready_result_is_not_checked several_threads_wait_for_one_result
        a_result_arrives_although_nobody_waits successful_raises_before_the_job_ends
        a_value_is_the_same_object_each_time a_failure_is_the_same_object_each_time
        the_callback_runs_before_the_result_is_ready the_error_callback_gets_the_failure_itself
         a_callback_may_submit a_callback_may_close_the_pool
         a_false_value_is_not_a_callback
        an_error_in_a_callback_fails_the_job an_error_in_an_error_callback_fails_the_job
        a_slow_callback_delays_no_other_result attributes_of_a_failed_result
        number_left_starts_with_the_number_of_chunks a_map_result_without_chunks_has_none_left
        job_numbers_increase a_pending_result_cannot_be_pickled
    """,
    "job/test_imap": """
        every_result_comes parameters_have_the_documented_names
        larger_chunks_give_an_iterator_over_items
        a_wrong_chunksize_is_refused_at_once

        imap_gives_results_in_the_order_of_the_items imap_unordered_gives_results_as_they_arrive
        a_result_comes_before_the_iterable_ends every_item_runs_although_nobody_reads
        close_and_join_wait_for_unread_items several_iterators_at_once
        next_is_a_method_with_a_timeout an_exhausted_iterator_keeps_raising_stop_iteration
        two_threads_wait_for_the_last_item items_after_a_failed_item_arrive
        a_failed_item_keeps_its_place items_before_a_failure_of_the_iterable_arrive
        a_non_iterable_fails_at_the_first_next an_unpicklable_item_fails_alone
        an_iterable_may_raise_anything the_iterable_is_read_only_as_fast_as_workers_take_items
        buffersize_bounds_the_items_taken_and_not_read
    """,
    "job/test_failures": """
        the_death_of_a_worker_fails_its_task
        the_error_callback_gets_the_worker_lost_error
        a_lost_chunk_fails_map_and_the_other_chunks_run
        an_iterator_continues_after_a_lost_item a_finished_result_outlives_its_worker


        an_exception_that_does_not_unpickle_becomes_a_remote_error
        every_method_raises_the_remote_error a_result_that_does_not_unpickle
        an_argument_that_does_not_unpickle a_wrong_length_fails_the_job
        a_sized_iterable_that_raises_fails_the_job an_invalid_length_is_refused
        wrong_initargs_fail_the_initializer
    """,
    "job/test_misbehaving_callbacks": """
        a_callback_that_raises_fails_only_its_job a_callback_may_wait_for_anything_else
        a_blocked_callback_does_not_delay_terminate callbacks_run_one_after_another
         an_iterable_that_raises_fails_only_its_job
        a_blocked_iterable_delays_no_other_job an_iterable_that_uses_its_pool
        results_of_one_call_may_be_the_items_of_the_next
    """,
    "control/test_cancel": """
        what_runs_is_killed what_has_not_begun_is_withdrawn what_runs_may_end
        calls_of_others_lose_nothing cancel_of_a_call_that_has_ended_returns_false
        callbacks_hear_of_it cancel_wakes_a_waiting_thread the_first_failure_ends_the_call
        an_iterator_ends_with_the_failure closing_an_iterator_withdraws_the_rest
        a_closed_iterator_ends_for_other_threads
    """,
    "control/test_as_completed": """
        results_come_in_the_order_of_their_ends failures_come_too results_with_callbacks
        a_time_limit another_thread_waits_meanwhile a_pool_that_is_terminated
        what_is_no_result_is_refused
    """,
    "faces/test_progress": """
        a_blocking_map_ends_with_all_items every_method_takes_progress
        the_count_grows_while_items_run bars_have_the_given_parameters
        a_bar_is_closed_where_the_call_fails without_tqdm an_invalid_progress_is_refused
        a_function_that_raises_is_called_once nothing_runs_for_an_empty_map with_the_real_tqdm
    """,
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


for place, names in SAME.items():
    loaded = load(place)
    for name in names.split():
        globals()[f"test_{place.rpartition('test_')[2]}_{name}"] = getattr(loaded, f"test_{name}")
    for found, value in vars(loaded).items():
        if type(value).__name__ == "FixtureFunctionDefinition":
            globals()[found] = value
