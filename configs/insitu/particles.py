"""A simulation that fits the velocities of its particles in memory, on all ranks together, while it runs.

    mpirun -n 3 python configs/insitu/particles.py --n-particles 300000 --n-steps 100 --every 10

Two bunches of charged particles travel along x in potential wells and gyrate in a magnetic field along x. Waves between
x = 0.5 and 0.6 heat them. Each rank holds the particles in its part of the x axis, which has length 1 and is periodic,
so that the numbers of particles change, and some ranks have none. For each fit rank 0 prints the particles of each rank
and the components in the order of their temperatures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from mpi4py import MPI

import mpigmm

MIXTURE = {"model": {"n_components": 2, "covariance_type": "diag"}, "em": {"tol": 1e-6}}

STEP = 0.01
WELLS, WELL_WIDTH, WELL_DEPTH, WELL_SPEED = (0.1, 0.5), 0.03, 0.1, 1.0
SHARES, THERMAL_SPEEDS, GYRATION_SPEEDS = (0.7, 0.3), (0.05, 0.1), (0.0, 1.0)
GYRATION_FREQUENCY = 5.0
HEATED, KICK = (0.5, 0.6), 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description="Particles in wells, and mixtures of their velocities")
    parser.add_argument("--n-particles", type=int, default=300_000)
    parser.add_argument("--n-steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="steps between fits")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    for step, particles in simulate(comm, options.n_particles, options.n_steps):
        if step % options.every == 0:
            report(comm, step, particles, fit_velocities(comm, particles))


def fit_velocities(comm: MPI.Intracomm, particles: np.ndarray) -> mpigmm.FitResult:
    """The mixture of the velocities of all ranks. Collective. The columns are passed as they are, without a copy."""
    _, vx, vy, vz = particles
    return mpigmm.fit(MIXTURE, (vx, vy, vz), comm=comm)


def report(comm: MPI.Intracomm, step: int, particles: np.ndarray, result: mpigmm.FitResult) -> None:
    """Print the result of a fit on rank 0. Collective."""
    counts = comm.gather(particles.shape[1])
    if comm.rank == 0:
        temperatures = result.mixture.covariances.mean(axis=1)
        order = temperatures.argsort()
        print(
            f"step {step}: particles {counts}, weights {result.mixture.weights[order].round(4).tolist()}, "
            f"temperatures {temperatures[order].round(5).tolist()}, "
            f"mean log-likelihood {result.summary['mean_log_likelihood']:.5f}",
            flush=True,
        )


def simulate(comm: MPI.Intracomm, n_particles: int, n_steps: int) -> Iterator[tuple[int, np.ndarray]]:
    """The particles (4, n) of this rank, of position and velocity x, vx, vy, vz, after each step. Collective."""
    random = np.random.default_rng([0, comm.rank])
    particles = new_particles(random, n_particles // comm.size + (comm.rank < n_particles % comm.size))
    for step in range(1, n_steps + 1):
        advance(particles, (step - 0.5) * STEP, random)
        particles = exchange(comm, particles)
        yield step, particles


def new_particles(random: np.random.Generator, n: int) -> np.ndarray:
    """Particles (4, n) at rest relative to the wells, apart from their gyration and thermal motion."""
    bunch = random.choice(len(WELLS), n, p=SHARES)
    thermal = np.take(THERMAL_SPEEDS, bunch)
    particles = random.standard_normal((4, n)) * thermal
    x, vx, vy, _ = particles
    vx += WELL_SPEED
    vy += np.take(GYRATION_SPEEDS, bunch)
    x *= WELL_WIDTH / np.sqrt(WELL_DEPTH)  # as in a harmonic well
    x += np.take(WELLS, bunch)
    return particles


def advance(particles: np.ndarray, middle: float, random: np.random.Generator) -> None:
    """Advance particles by a step, in place: half of the drift, kick and gyration, the other half of the drift."""
    x, vx, vy, vz = particles
    x += STEP / 2 * vx
    for start in WELLS:
        distance = (x - start - WELL_SPEED * middle + 0.5) % 1 - 0.5
        vx -= STEP * WELL_DEPTH / WELL_WIDTH**2 * distance * np.exp(-0.5 * (distance / WELL_WIDTH) ** 2)
    cos, sin = np.cos(GYRATION_FREQUENCY * STEP), np.sin(GYRATION_FREQUENCY * STEP)
    vy[:], vz[:] = cos * vy - sin * vz, sin * vy + cos * vz
    is_heated = (HEATED[0] <= x % 1) & (x % 1 < HEATED[1])
    particles[2:, is_heated] += KICK * random.standard_normal((2, is_heated.sum()))
    x += STEP / 2 * vx
    x %= 1


def exchange(comm: MPI.Intracomm, particles: np.ndarray) -> np.ndarray:
    """The particles of this rank's part of the x axis, after each rank has sent away those that left its own."""
    owner = np.minimum(particles[0] * comm.size, comm.size - 1).astype(int)
    ends = np.bincount(owner, minlength=comm.size).cumsum()
    parts = np.split(particles[:, owner.argsort(kind="stable")], ends[:-1], axis=1)
    return np.concatenate(comm.alltoall(parts), axis=1)


if __name__ == "__main__":
    main()
