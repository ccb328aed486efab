"""What ranks tell one another: values of any size, in messages that MPI can count."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from support import blobs, factors_of, start_mixture

from mpigmm.core.mixture import Mixture
from mpigmm.parallel import mpi as module
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import pieces, split

pytestmark = pytest.mark.parallel


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of 64 bytes at most, so that small arrays take as many as large ones do."""
    monkeypatch.setattr(module, "PIECE_BYTES", 64)
    monkeypatch.setattr(module, "APART_BYTES", 32)


def fortran(n: int) -> np.ndarray:
    return np.asfortranarray(np.arange(2.0 * n).reshape(2, n))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": np.arange(9.0), "b": [np.arange(1000).reshape(10, 100), "text"], "c": np.zeros(0)},
        (fortran(50), np.arange(200.0)[::2], np.float32(3.0)),
        np.arange(300) % 7 == 0,
    ],
    ids=["nothing", "nested", "strided", "switches"],
)
def test_roots_value_arrives(comm: Comm, small_pieces: None, value: object) -> None:
    arrived = comm.bcast(value if comm.is_root else None)
    assert pickle.dumps(arrived, protocol=4) == pickle.dumps(value, protocol=4)


def test_arrays_that_arrive_can_be_changed(comm: Comm, small_pieces: None) -> None:
    arrived = comm.bcast(np.arange(100.0) if comm.is_root else None)
    arrived += 1
    assert arrived[-1] == 100


def test_a_mixture_travels_without_its_factors(comm: Comm, small_pieces: None) -> None:
    mixture = start_mixture("full", blobs(50, 3, 2), 2)
    _ = factors_of(mixture)
    pickled, arrays = split(mixture)
    assert sum(array.nbytes for array in arrays) == 2 * 3 * 8 + 2 * 9 * 8 and len(pickled) < 1000
    arrived: Mixture = comm.bcast(mixture if comm.is_root else None)
    assert arrived.digest() == mixture.digest()
    factors = factors_of(mixture).tobytes()
    mixture.release()
    assert "factors" not in vars(mixture.covariances)
    assert factors_of(arrived).tobytes() == factors_of(mixture).tobytes() == factors


@pytest.mark.parametrize("size", [0, 1, 8, 9, 1000])
def test_sums_and_maxima_in_pieces(comm: Comm, small_pieces: None, size: int) -> None:
    values = np.arange(size) * (comm.rank + 1)
    assert (comm.sum(values) == np.arange(size) * (comm.size * (comm.size + 1) // 2)).all()
    floats = np.arange(size) * float(comm.rank)
    assert (comm.max(floats) == np.arange(size) * float(comm.size - 1)).all()


@pytest.mark.parametrize("n_columns", [1, 3])
def test_rows_of_all_ranks_in_order(comm: Comm, small_pieces: None, n_columns: int) -> None:
    counts = [(7 * rank) % 5 * 10 for rank in range(comm.size)]  # none of the first
    own = np.full((counts[comm.rank], n_columns), float(comm.rank))
    whole = comm.concatenate(own)
    if comm.is_root:
        assert whole[:, 0].tolist() == [float(rank) for rank in range(comm.size) for _ in range(counts[rank])]
    assert comm.concatenate(np.full(comm.rank, 1.0)).sum() == (comm.size * (comm.size - 1) // 2 if comm.is_root else 0)


def test_ordinary_sizes_take_one_reduction() -> None:
    assert [piece.size for piece in pieces(np.zeros(1 << 20, np.int64))] == [1 << 20]


@pytest.mark.parametrize("n_entries", [2**31 + 5, 3 * 17 * 2900 * 2901 // 2])
def test_no_message_exceeds_what_mpi_counts(n_entries: int) -> None:
    vector = np.broadcast_to(np.zeros(1, np.int64), n_entries)  # takes no memory
    sizes = [piece.size for piece in pieces(vector)]
    assert sum(sizes) == n_entries and max(sizes) * 8 < 2**31
