"""Defers SIGTERM and SIGINT while a run saves itself."""

import ctypes
import signal
import threading
from typing import Any

# Bytes of a buffer that holds a C struct sigaction on every platform.
_SIZE = 512


class Signals:
    """Context manager that notes SIGTERM and the first SIGINT in ``received`` instead of acting.

    A second SIGINT raises KeyboardInterrupt. On exit the earlier handlers are restored, including
    handlers that are not Python's, such as those of ``jax.distributed``. A signal that was ignored
    before stays ignored: a shell script, for example, starts background jobs that ignore Ctrl-C.
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
        """Call the earlier handler of the received signal; do nothing without a signal."""
        handler, native = self._before.get(self.received, (None, None))
        if native is not None:
            signal.raise_signal(self.received)
        elif callable(handler) and handler is not signal.default_int_handler:
            handler(self.received, None)


def _native_handler(number: int) -> Any:
    """Return the C ``sigaction`` of a signal whose handler is not Python's; None otherwise."""
    if callable(signal.getsignal(number)):
        return None
    action = ctypes.create_string_buffer(_SIZE)
    # The struct begins with the handler's address, which is 0 for the default action.
    if _sigaction(number, None, action) or not any(action.raw[: ctypes.sizeof(ctypes.c_void_p)]):
        return None
    return action


def _sigaction(number: int, new: Any, old: Any) -> int:
    """Call the C function ``sigaction``; return 0 on success, and another number on failure."""
    try:
        return int(ctypes.CDLL(None).sigaction(number, new, old))
    except (AttributeError, OSError, TypeError):  # on Windows
        return -1
