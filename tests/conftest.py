"""One thread a test process: two cores run two of them, and two-thread torch on a busy core is many times slower.

Ctrl-C works in tests however they were started: a shell's background job, and what it starts, would ignore it.
"""

import os
import signal

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
