"""Checkpointed layers run again in backward, and must meet the same kernels there.

Autograd runs backward with the thread's state as it was before any torch function mode was
entered, so a recomputed dropout or attention would not be CUDA's. Source: torch/utils/checkpoint.py
(the hook that surrounds a recomputation), torch/csrc/autograd/engine.cpp.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.overrides import _get_current_function_mode_stack
from torch.utils import checkpoint


@contextmanager
def modes_in_recomputation() -> Iterator[None]:
    """Inside, recomputations run under the torch function modes that are active now."""
    modes = _get_current_function_mode_stack()
    plain: Any = checkpoint._recomputation_hook

    class UnderModes(plain):  # type: ignore[misc]
        """The hook around a recomputation, with the modes inside of it."""

        def __enter__(self) -> Any:
            entered = super().__enter__()
            self._stack = ExitStack()
            for mode in modes:
                self._stack.enter_context(mode)
            return entered

        def __exit__(self, *error: object) -> Any:
            self._stack.close()
            return super().__exit__(*error)

    checkpoint._recomputation_hook = UnderModes  # type: ignore[misc]
    try:
        yield
    finally:
        checkpoint._recomputation_hook = plain  # type: ignore[misc]
