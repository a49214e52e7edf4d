"""Guards of grids, and of equal bits, each beside the test that turns red when it is taken out.

What is read refuses by sentences, and is held without such a list: `test_malformed.py`,
`test_guards_records.py`, `test_guards_verify.py`.
"""

from __future__ import annotations

import inspect
import signal
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmark import algorithm, executors, files, grid, leases, runner
from benchmark.envs.meanfield import game
from leaderboard import summarise
from tests import (
    test_contracts,
    test_files,
    test_grid,
    test_leases,
    test_runner,
    test_table,
)
from tests.guards import WaitedError, impatient, instead
from tests.test_grid import _quick, scripts  # noqa: F401


@dataclass(frozen=True)
class Mutation:
    module: types.ModuleType
    old: str
    new: str
    test: Callable[..., None]
    given: Mapping[str, Any] = field(default_factory=dict)  # its parameters
    waits: float = 0.0  # seconds, where it would wait for ever


MUTATIONS: dict[str, Mutation] = {
    # ------------------------------------------------------------------------------------ claims
    "a held claim is left alone": Mutation(
        leases,
        "if last and not self.stale(last):\n            return None",
        "",
        test_leases.test_one_grid_alone_gets_a_claim,
    ),
    "a claim is linked if absent": Mutation(
        leases,
        "files.write_json(claim.path, self.owner, exclusive=True)",
        "files.write_json(claim.path, self.owner)",
        test_leases.test_a_claim_that_came_since_it_was_looked_for_is_anothers,
    ),
    "a lease ends": Mutation(
        leases,
        "return self._now() - touched > self.lease",
        "return False",
        test_leases.test_a_claim_of_another_machine_is_taken_over_after_its_lease,
    ),
    "a lease lasts": Mutation(
        leases,
        "return self._now() - touched > self.lease",
        "return True",
        test_leases.test_one_grid_alone_gets_a_claim,
    ),
    "a dead holder's claim is stale at once": Mutation(
        leases,
        "if here and not alive(",
        "if False and not alive(",
        test_leases.test_a_claim_whose_holder_died_here_is_taken_over_at_once,
    ),
    "process numbers of other machines say nothing": Mutation(
        leases,
        "if here and not alive(",
        "if not alive(",
        test_leases.test_a_claim_of_another_machine_is_taken_over_after_its_lease,
    ),
    "a process number used again is another process": Mutation(
        leases,
        "return same and process",
        "return process",
        test_leases.test_a_process_number_used_again_does_not_keep_a_claim,
    ),
    "a zombie is dead": Mutation(
        leases,
        " and process.status() != psutil.STATUS_ZOMBIE",
        "",
        test_leases.test_a_holder_that_waits_to_be_buried_is_dead,
    ),
    "a newer claim ends an older one": Mutation(
        leases,
        " and last.generation == claim.generation",
        "",
        test_leases.test_a_holder_that_finds_a_newer_claim_stops,
    ),
    "a try is noted beside others": Mutation(
        leases,
        '.json", value, exclusive=True',
        '.json", value',
        test_leases.test_tries_that_two_note_at_once_are_two,
    ),
    "only a stale claim is cleared": Mutation(
        leases,
        "if last and self.stale(last):",
        "if last:",
        test_leases.test_what_a_dead_grid_left_of_a_finished_job_is_removed,
    ),
    # ----------------------------------------------------------------------------------- records
    "a record is published if absent": Mutation(
        runner,
        "record.write(item, root, exclusive=True)",
        "record.write(item, root)",
        test_grid.test_records_are_never_replaced,
    ),
    "if absent means by link": Mutation(
        files,
        "        if exclusive:\n",
        "        if False:\n",
        test_files.test_exclusive_writes_never_replace,
    ),
    "other returns are told": Mutation(
        runner,
        "!= (item.status, item.returns)",
        "== ()",
        test_grid.test_records_are_never_replaced,
    ),
    "writers at work are not swept up": Mutation(
        files,
        "> older_than",
        "> -1",
        test_grid.test_left_overs_of_killed_writers_are_swept_and_those_at_work_are_not,
    ),
    "one process a run": Mutation(
        runner,
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        test_runner.test_second_process_on_one_run_is_refused,
    ),
    # -------------------------------------------------------------------------------------- grid
    "a finished job is not run": Mutation(
        grid,
        "if job.finished():  # looked at again",
        "if claim is None and job.finished():  # looked at again",
        test_grid.test_a_job_that_another_finished_before_it_was_claimed_is_not_run_again,
    ),
    "not four tries": Mutation(
        grid,
        ">= self.tries:",
        "> self.tries:",
        test_grid.test_a_poison_job_is_tried_three_times_and_recorded_as_failed,
    ),
    "not two tries": Mutation(
        grid,
        "(tried := self.leases.note(job.name, reason)) >= self.tries",
        "(tried := self.leases.note(job.name, reason)) >= self.tries - 1",
        test_grid.test_a_poison_job_is_tried_three_times_and_recorded_as_failed,
    ),
    "then recorded as failed": Mutation(
        grid,
        "            if job.fail:\n",
        "            if False:\n",
        test_grid.test_a_poison_job_is_tried_three_times_and_recorded_as_failed,
    ),
    "tries of a killed grid count": Mutation(
        grid,
        "elif len(tries := self.leases.tries(name)) >= self.tries:",
        "elif len(tries := self.leases.tries(name)) >= 1e9:",
        test_grid.test_tries_of_a_grid_that_was_killed_count,
    ),
    "a kill counts where it got no further": Mutation(
        grid,
        "elif killed and end.advanced:",
        "elif killed:",
        test_grid.test_being_killed_counts_only_where_the_job_got_no_further,
    ),
    "a kill counts nowhere else": Mutation(
        grid,
        "elif killed and end.advanced:",
        "elif False:",
        test_grid.test_being_killed_counts_only_where_the_job_got_no_further,
    ),
    "records outlive a kill": Mutation(
        grid,
        "        if job.finished():\n            failed = ",
        "        if False:\n            failed = ",
        test_grid.test_a_job_that_is_killed_after_its_last_record_is_done,
    ),
    "a user's mistake is not recorded": Mutation(
        grid,
        "elif end.code == UserError.code:",
        "elif False:",
        test_grid.test_a_users_mistake_is_told_and_neither_tried_again_nor_recorded,
    ),
    "a busy run is waited for": Mutation(
        grid,
        "elif end.code == BusyError.code:",
        "elif False:",
        test_grid.test_a_run_that_another_process_holds_is_tried_until_it_is_free,
    ),
    "claims are given back": Mutation(
        grid,
        "            for running in self.running.values():\n"
        "                self.leases.release(running.claim)",
        "",
        test_grid.test_ctrl_c_ends_the_jobs_and_gives_the_claims_back,
    ),
    # --------------------------------------------------------------------------------------- jobs
    "the kernel's kill is for memory": Mutation(
        executors,
        "if code == -signal.SIGKILL and killed:",
        "if False:",
        test_grid.test_a_job_that_the_kernel_ended_is_out_of_memory,
    ),
    "no memory left is told": Mutation(
        executors,
        'if text.startswith("MemoryError")',
        "if False",
        test_grid.test_why_a_job_failed_is_one_sentence,
        {
            "script": "raise MemoryError('no 5 GB')",
            "code": 1,
            "words": "out of memory: MemoryError: no 5 GB",
        },
    ),
    "a signal is told": Mutation(
        executors,
        "    if code < 0:\n",
        "    if False:\n",
        test_grid.test_why_a_job_failed_is_one_sentence,
        {
            "script": f"import os; os.kill(os.getpid(), {signal.SIGSEGV:d})",
            "code": -11,
            "words": "SIGSEGV",
        },
    ),
    "a job without a sign of life is ended": Mutation(
        executors,
        "if time.monotonic() - life > patience:",
        "if False:",
        test_grid.test_a_job_that_hangs_is_ended_with_all_that_it_started,
        waits=4.0,
    ),
    "a checkpoint is a sign of life": Mutation(
        executors,
        "if folder_time != (folder_time := folder.stat().st_mtime):",
        "if False:",
        test_grid.test_a_new_checkpoint_is_a_sign_of_life_and_of_progress,
    ),
    "a job that is stopped saves its state": Mutation(
        executors,
        "process.send_signal(signal.SIGINT)",
        "process.kill()",
        test_grid.test_a_job_that_is_stopped_hears_of_it_politely,
    ),
    # ---------------------------------------------------------------------------------- equal bits
    "a run has one thread": Mutation(
        runner,
        "torch.set_num_threads(THREADS)",
        "pass",
        test_runner.test_a_run_has_one_thread_whatever_the_process_had,
    ),
    "a run has its own seed": Mutation(
        algorithm,
        "rng.seeded(seed) for seed in seeds",
        "rng.seeded(place) for place, _ in enumerate(seeds)",
        test_runner.test_seed_in_a_group_equals_the_seed_alone,
    ),
    "an episode has its own generator": Mutation(
        game,
        "default_rng([seed, 0xE17]) for seed in seeds",
        "default_rng([place, 0xE17]) for place, _ in enumerate(seeds)",
        test_contracts.test_every_task_keeps_the_contract_of_tasks,
        {"task_id": "meanfield/beach-bar-n16-v1"},
    ),
    "seeds are sorted": Mutation(
        summarise,
        "for seed in sorted(seeds)]",
        "for seed in seeds]",
        test_table.test_every_format_is_the_same_bytes_in_any_order_of_records,
        {"kind": "json"},
    ),
    "boards are sorted": Mutation(
        summarise,
        "in sorted(boards, key=Board.order):",
        "in boards:",
        test_table.test_every_format_is_the_same_bytes_in_any_order_of_records,
        {"kind": "json"},
    ),
}


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("guard", MUTATIONS)
def test_without_a_guard_its_test_turns_red(guard: str, request: pytest.FixtureRequest) -> None:
    cut = MUTATIONS[guard]
    names = [name for name in inspect.signature(cut.test).parameters if name not in cut.given]
    values = {name: request.getfixturevalue(name) for name in names}
    red: Any = WaitedError if cut.waits else (AssertionError, pytest.fail.Exception)
    with instead(cut.module, cut.old, cut.new), impatient(cut.waits), pytest.raises(red):
        cut.test(**values, **cut.given)
