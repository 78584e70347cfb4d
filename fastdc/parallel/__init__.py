"""Where work is done and by whom: devices, threads, worker processes, jobs that several share."""
