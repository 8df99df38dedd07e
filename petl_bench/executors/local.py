"""Worker processes on this machine."""

from collections.abc import Sequence
from queue import SimpleQueue

from petl_bench.executors.lanes import LanesExecutor
from petl_bench.lane import Lane, open_lane


class LocalExecutor(LanesExecutor):
    """Lanes with a worker process each."""

    def __init__(self, lanes: int = 1, *, devices: Sequence[str] = ()) -> None:
        """Open `lanes`, or one for each of `devices`, named as in CUDA_VISIBLE_DEVICES."""
        self._devices: SimpleQueue[str | None] = SimpleQueue()
        for device in devices or (None,) * lanes:
            self._devices.put(device)
        self._lanes: list[Lane] = []
        super().__init__(
            len(devices) or lanes, thread_name_prefix="lane", initializer=self._open_lane
        )

    def kill_workers(self) -> None:
        """End the worker processes."""
        for lane in self._lanes:
            lane.kill()

    def release(self) -> None:
        """End the worker processes, which are idle."""
        for lane in self._lanes:
            lane.close()

    def _open_lane(self) -> None:
        self._lanes.append(open_lane(self._devices.get()))
