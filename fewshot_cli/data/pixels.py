"""A split's decoded images, in memory or mapped from a file."""

import math
import os
import queue
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.store import Split
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.device import free_memory, onto
from fewshot_cli.runtime.files import guarded
from fewshot_cli.runtime.processes import Processes

T = TypeVar("T")


class Pixels:
    """A split's decoded images [N,3,S,S] uint8 and their original sizes [N,2].

    They are on the device when they fit, else in a temporary file of the data root that is mapped into memory.
    """

    def __init__(self, split: Split, recipe: Recipe, side: int, root: Path, processes: Processes) -> None:
        shape, self.device = (len(split), 3, side, side), processes.device
        size = math.prod(shape)
        self.mapped = size > room(processes)
        images = None
        if self.mapped:
            say(f"note: {size / 1e9:.1f} GB of decoded images do not fit; they are kept in a file in {root}")
            with guarded(root), tempfile.TemporaryFile(dir=root) as file:  # no name: it is gone with the process
                os.posix_fallocate(file.fileno(), 0, size)  # a disk full later would kill the process
                images = torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))
        with progress(f"decode {split.store}/{split.split}", len(split), "images") as bar:
            images, self.sizes = split.decode(side, recipe.dataset.crop, bar.update, into=images)
        self.images = images if self.mapped else images.to(self.device)

    def __call__(self, pick: Tensor) -> Tensor:
        """The images with these indices [K] (a CPU tensor), on the device: [K,3,S,S]."""
        if self.mapped:
            return onto(self.device, self.images[pick])
        return self.images[onto(self.device, pick)]

    def ahead(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; those from a file, and all for a GPU, are made by another thread, two ahead."""
        return _ahead(batches, self.device) if self.mapped or self.device.type == "cuda" else iter(batches)


def room(processes: Processes) -> int:
    """Bytes that decoded images may take: half of the free memory, divided among the machine's processes."""
    host = free_memory(torch.device("cpu")) // 2 // processes.local
    return min(host, free_memory(processes.device) // 2) if processes.device.type == "cuda" else host


def _ahead(batches: Iterable[T], device: torch.device) -> Iterator[T]:
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(2)
    stopped = threading.Event()

    def put(item: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # a new thread's is the first
            for batch in batches:
                put((True, batch))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            more, item = ready.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stopped.set()
