"""Signals that ask a run to stop, noted instead of obeyed, and then handed on."""

import ctypes
import signal
import threading
from typing import Any

__all__ = ["Signals"]

# More than a struct sigaction has anywhere.
_SIZE = 512


class Signals:
    """Within a block, SIGTERM and the first SIGINT are noted instead of obeyed.

    Afterwards they do again what they did before, also where their handler is not Python's, as that
    of ``jax.distributed``. A signal that was ignored stays so, as Ctrl-C in what a shell script has
    put into the background.
    """

    received = 0

    def __enter__(self) -> "Signals":
        self._before: dict[int, tuple[Any, Any]] = {}
        # Python handles signals in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN:
                    self._before[number] = handler, _native_handler(number)
                    signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *_: Any) -> None:
        for number, (handler, native) in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            if native is not None:
                _sigaction(number, native, None)

    def hand_on(self) -> None:
        """Tell the handlers of before of the signal that this process has received, if any did."""
        handler, native = self._before.get(self.received, (None, None))
        if native is not None:
            signal.raise_signal(self.received)
        elif callable(handler) and handler is not signal.default_int_handler:
            handler(self.received, None)


def _native_handler(number: int) -> Any:
    """What ``sigaction`` says of a signal whose handler is not Python's; else None."""
    if callable(signal.getsignal(number)):
        return None
    action = ctypes.create_string_buffer(_SIZE)
    # The handler comes first; that of default is 0.
    if _sigaction(number, None, action) or not any(action.raw[: ctypes.sizeof(ctypes.c_void_p)]):
        return None
    return action


def _sigaction(number: int, new: Any, old: Any) -> int:
    """The C function; not 0 if it failed, or there is none."""
    try:
        return int(ctypes.CDLL(None).sigaction(number, new, old))
    except (AttributeError, OSError, TypeError):  # on Windows
        return -1
