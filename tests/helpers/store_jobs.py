"""What other processes do in the store's tests; a module of its own, so that a fresh process can import it."""

import multiprocessing
import os
import resource
import signal
import threading
import time

import torch

from earsight.data import audio
from earsight.features import row_file
from earsight.features.store import open_store
from earsight.features.waves import open_waves

CONTEXT = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    # Each process is then forked in milliseconds from one that has imported torch.
    CONTEXT.set_forkserver_preload(["earsight.features.store"])


def build(dataset, features, semitones, cache, log, *, workers=1, pause=0.0, kill=None):
    """Open a store and write each decoded file down; kill this very process at (files begun, seconds after)."""
    torch.set_num_threads(1)
    original = audio.read
    begun = []

    def read(path, **keywords):
        with log.open("ab", buffering=0) as file:
            file.write(f"{path.name}\n".encode())
        begun.append(path)
        if kill and len(begun) == kill[0]:
            threading.Timer(kill[1], os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(pause)
        return original(path, **keywords)

    audio.read = read
    row_file._SYNC_SECONDS, row_file._SYNC_SHARE = 0.0, 1e9  # every row by itself
    open_store(dataset, features, semitones=semitones, cache=cache, workers=workers)


def build_and_weigh(dataset, features, semitones, cache, answer):
    """Build, read every row as training does, and send the process's largest size in MiB."""
    torch.set_num_threads(1)
    store = open_store(dataset, features, semitones=semitones, cache=cache, workers=2)
    for start in range(0, store.shape[0], 16):
        store.read(torch.arange(start, min(start + 16, store.shape[0])).numpy())
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def decode_and_weigh(dataset, features, cache, answer):
    """Decode every clip, read every wave, and send the process's largest size in MiB."""
    torch.set_num_threads(1)
    waves = open_waves(dataset, features, cache=cache, workers=2)
    for row in range(len(waves.sounds)):
        waves.read_raw(row)
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
