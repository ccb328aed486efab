"""A cache of decoded parts of files that the threads of a rank share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

from numpy.typing import NDArray

CACHE_BYTES = 1 << 26
"""Bytes that a cache keeps, unless parts are larger."""

Decode = Callable[[Hashable], NDArray[Any]]
"""Returns the part of a file with this key."""


class SharedCache:
    """Arrays by key, of which those that were used least recently are dropped first.

    Each is decoded once, by the first thread that asks for it. Threads that ask for the same several arrays at once
    decode different ones of them at the same time, and then wait for one another.
    """

    def __init__(self) -> None:
        self._most, self._n_bytes = CACHE_BYTES, 0
        self._parts: OrderedDict[Hashable, Future[NDArray[Any]]] = OrderedDict()
        self._lock = Lock()

    def reserve(self, n_bytes: int) -> None:
        """Keep at least so many bytes from now on."""
        with self._lock:
            self._most = max(self._most, n_bytes)

    def get(self, keys: Sequence[Hashable], decode: Decode) -> list[NDArray[Any]]:
        """The arrays of some keys, decoded where they are not in the cache; raises what decode(key) raises."""
        found = {}
        for key in keys:
            found[key], is_new = self._claim(key)
            if is_new:
                self._fill(key, found[key], decode)
        return [found[key].result() for key in keys]

    def _claim(self, key: Hashable) -> tuple[Future[NDArray[Any]], bool]:
        """The array of a key, or the promise of it; and whether the caller is to keep the promise."""
        with self._lock:
            is_new = key not in self._parts
            if is_new:
                self._parts[key] = Future()
            self._parts.move_to_end(key)
            return self._parts[key], is_new

    def _fill(self, key: Hashable, part: Future[NDArray[Any]], decode: Decode) -> None:
        try:
            part.set_result(decode(key))
        except BaseException as error:
            with self._lock:
                del self._parts[key]  # another attempt may succeed
            part.set_exception(error)
            return
        with self._lock:
            self._n_bytes += part.result().nbytes
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop arrays until the others have no more bytes than the cache may keep."""
        while self._n_bytes > self._most:
            oldest = next((key for key, part in self._parts.items() if part.done()), None)
            if oldest is None:
                return
            self._n_bytes -= self._parts.pop(oldest).result().nbytes
