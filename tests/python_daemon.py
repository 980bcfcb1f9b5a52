"""Spark's Python daemon, which has imported what scoring needs: its workers are forks of it.

Spark starts a worker a core, and ends those that nothing was asked of for a minute. Each would
import torch anew, which takes longer than what a test does with it. The tests' own Spark uses this
daemon; commands in processes of their own use Spark's.

Source: https://github.com/apache/spark/blob/master/python/pyspark/daemon.py
"""

from __future__ import annotations

import gc

from pyspark.daemon import manager

import pipeline.scoring.task  # noqa: F401 - imported for the workers

if __name__ == "__main__":
    gc.freeze()  # Spark collects garbage after every task: what was imported is none
    manager()
