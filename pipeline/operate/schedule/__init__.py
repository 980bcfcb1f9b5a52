"""The long-running service: jobs of stages on a cron, each run in a process of its own.

    service.py   the scheduler, the signals, and `--once`
    runner.py    one run: attempts, back-off, record, alarm
    child.py     the process of one attempt
    command.py   what it is told to do
    locks.py     one run of a pipeline at a time, over all processes
    records.py   the table of runs
    status.py    what the service knows of its jobs
    health.py    the same over HTTP
    webhook.py   where failures are told

Nothing here starts Spark or imports torch: what a run does to its process stays in it.
"""
