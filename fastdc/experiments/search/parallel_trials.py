"""Trials of a search side by side: as many networks at once as there are threads, shared with any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed

from fastdc.experiments.search.trial import Trial, TrialRunner
from fastdc.parallel.devices import resolve_device
from fastdc.parallel.jobs import do_all
from fastdc.parallel.threads import compute_threads, one_thread_each
from fastdc.runs.progress import progress_bar


def do_trials(runner: TrialRunner, trials: Sequence[Trial], *, doing: str, progress: bool) -> dict[Trial, str]:
    """Do what is still to be done of trials, each network by one thread; on GPUs one by one.

    Args:
        runner: does one.
        trials: in the order in which to try them.
        doing: what the progress bar calls it.
        progress: whether to show one.

    Returns:
        What failed, with its reason.
    """
    failures: dict[Trial, str] = {}
    done = sum(map(runner.is_done, trials))
    with progress_bar(len(trials), doing, "network", shown=progress, done=done) as bar:

        def do(trial: Trial) -> None:
            runner.do(trial)
            bar.update()

        def work() -> None:
            do_all(trials, runner, do, lambda _: None, failures)

        if resolve_device(runner.options.device).type != "cpu":
            work()  # in this thread: another would not know the GPU that the process was given
        else:
            threads = min(compute_threads(), len(trials))
            with one_thread_each(threads) as pool:
                for thread in as_completed([pool.submit(work) for _ in range(threads)]):
                    thread.result()
    return {trial: reason for trial, reason in failures.items() if not runner.is_done(trial)}
