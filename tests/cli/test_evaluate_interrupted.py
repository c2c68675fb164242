"""SIGTERM to an evaluation of vectors ends the processes that fit its heads, too."""

import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import os, sys, time
from joblib import Parallel, delayed
import molstream.cli.evaluate as evaluate

def fit(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(120)

try:
    with evaluate._interrupted_by_sigterm():
        list(Parallel(n_jobs=2, return_as="generator")(delayed(fit)(sys.argv[1]) for _ in range(8)))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def until(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_sigterm_ends_the_children(tmp_path):
    job = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert until(lambda: len(list(tmp_path.iterdir())) == 2)
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=60)[0] == "interrupted\n"
    assert until(lambda: not any(Path(f"/proc/{child.name}").exists() for child in tmp_path.iterdir()))
