"""Reads a run folder with TensorBoard itself (pip install tensorboard), the oracle of
src/observe/tensorboard.c. Use:

    DS_RUNLOG_EXAMPLE=/tmp/run build/release/tests/test_tensorboard
    python3 tests/observe/read_events.py /tmp/run
"""
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1])
accumulator.Reload()
tags = accumulator.Tags()
print("scalars:", tags["scalars"], "texts:", tags["tensors"])
loss = accumulator.Scalars("train/loss")
# A run of 100 steps that was resumed at step 51 and went on to 60: one story.
assert [e.step for e in loss] == list(range(1, 61)), [e.step for e in loss]
assert all(abs(e.value - 3.0 / e.step) < 1e-6 for e in loss[:50])
assert all(abs(e.value - 7.0 / e.step) < 1e-6 for e in loss[50:])
assert abs(accumulator.Scalars("train/learning_rate")[0].value - 1e-3) < 1e-9
print("read", len(loss), "steps; all as written")
