"""Questions about values, answered by running on the CPU what they rest on."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from petl_bench.deferral.lineage import Bytes, Call, Notes, State
from petl_bench.deferral.meta import emptied, twin

_SMALL_BYTES = 65_536  # of what is kept for the next question
_TOLD_BYTES = 1 << 24  # likewise, where it was asked for


class Evaluator:
    """Works out values; a layer like another one asks for the same, which is remembered."""

    def __init__(self) -> None:
        self._small: dict[int, torch.UntypedStorage] = {}  # by their states' keys
        self._answers: dict[int, Any] = {}  # of calls without a meta kernel, by their keys
        self._told: dict[int, torch.Tensor] = {}  # data that was asked for, by the questions' keys

    def data(self, call: Call) -> Any:
        """The data that `call` asks for."""
        told = self._told.get(call.key)
        if told is None:
            told = call.result(self._bytes(call.reads))
            if torch.is_tensor(told) and told.nbytes <= _TOLD_BYTES:
                self._told[call.key] = told
        return told.clone() if torch.is_tensor(told) else told

    def form(self, call: Call) -> Any:
        """What `call` returns, its tensors without data."""
        if call.key not in self._answers:
            result = call.result(self._bytes(call.reads))
            self._answers[call.key] = tree_map(emptied, result)
        return tree_map(twin, self._answers[call.key])

    def _bytes(self, wanted: Iterable[State]) -> Bytes:
        """What `wanted` hold: all that they rest on is run, in order."""
        found: dict[State, torch.UntypedStorage] = {}
        ahead = list(wanted)
        while ahead:
            state = ahead[-1]
            if state in found:
                ahead.pop()
            elif state.key in self._small:
                found[state] = self._small[state.key]
            elif not isinstance(state.origin, (Call, Notes)):
                found[state] = state.origin()
            elif missing := [read for read in state.origin.reads if read not in found]:
                ahead.extend(missing)
            else:
                found[state] = state.origin.written(found)[state.position]
                if found[state].nbytes() <= _SMALL_BYTES:
                    self._small[state.key] = found[state]
        return found
