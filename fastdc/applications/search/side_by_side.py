"""Trials of a search side by side: as many networks at once as there are threads, shared with any number of processes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError

import torch

from fastdc.applications.search.trial import Laboratory, Trial
from fastdc.claims import do_all
from fastdc.devices import resolve_device
from fastdc.progress import progress_bar
from fastdc.threads import one_thread_each


def do_trials(laboratory: Laboratory, trials: Sequence[Trial], *, doing: str, progress: bool) -> dict[Trial, str]:
    """Do what is still to be done of trials, each network by one thread; on GPUs one by one.

    Args:
        laboratory: does one.
        trials: in the order in which to try them.
        doing: what the progress bar calls it.
        progress: whether to show one.

    Returns:
        What failed, with its reason.
    """
    threads = torch.get_num_threads() if resolve_device(laboratory.device).type == "cpu" else 1
    failures: dict[Trial, str] = {}
    over = threading.Event()
    done = sum(map(laboratory.is_done, trials))
    with progress_bar(len(trials), doing, "network", shown=progress, done=done) as bar, one_thread_each(threads) as pool:

        def do(trial: Trial) -> None:
            if over.is_set():
                raise CancelledError  # who waited for this was interrupted
            laboratory.do(trial)
            bar.update()

        try:
            for found in pool.map(lambda _: do_all(trials, laboratory, do, lambda _: None), range(threads)):
                failures |= found
        finally:
            over.set()
    return {trial: reason for trial, reason in failures.items() if not laboratory.is_done(trial)}
