"""What the executors have in common."""

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType


class LanesExecutor(ThreadPoolExecutor, ABC):
    """A thread a lane, each waiting for one case; an exception in its `with` ends the cases."""

    @abstractmethod
    def kill_workers(self) -> None:
        """End what is under way, called as ProcessPoolExecutor's of Python 3.14."""

    @abstractmethod
    def release(self) -> None:
        """Let go of what the lanes ran on; nothing is under way any more."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as inherited
        """As inherited; having waited, it lets go of the workers, too."""
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            self.release()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.shutdown(wait=False, cancel_futures=True)
            self.kill_workers()
        super().__exit__(kind, error, traceback)
