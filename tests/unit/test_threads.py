"""Jobs in threads: all are done, and what goes wrong is said."""

from __future__ import annotations

import threading

import pytest

from dsrg.threads import run_in_threads


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_every_job_is_done_once(threads: int, count: int) -> None:
    done: list[int] = []
    run_in_threads(done.append, range(count), threads=threads)
    assert sorted(done) == list(range(count))


def test_jobs_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=30)
    run_in_threads(lambda _: meeting.wait() and None, range(2), threads=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_job_to_fail_is_heard_of(threads: int) -> None:
    def fail(job: int) -> None:
        raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match="job 0"):
        run_in_threads(fail, range(3), threads=threads)
