"""Programs with well-known libraries that accept a pool, as their users would write them.

python -m benchmarks.programs [NAME ...]

Prints how long each takes with multiprocessing's pool, with cpool's and in a plain loop, in turns,
and the share of the pool in it: the time that is neither the library's own nor the tasks' time
divided by the number of workers. The same programs are the cases programs_* of `python -m
benchmarks`.

Workers import this module for the functions. The libraries are imported when they are used.
"""

import argparse
import importlib.util
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

WORKERS = 2
ROUNDS = 7


class Loop:
    """A plain loop with a pool's interface. Adds up the time of the tasks."""

    _processes = 1
    size = 1

    def __init__(self) -> None:
        self.seconds = 0.0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        items = list(items)
        start = time.perf_counter()
        results = [function(item) for item in items]
        self.seconds += time.perf_counter() - start
        return results

    def apply(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(*arguments)


def log_normal(point: Any) -> float:
    """The distribution for the samplers: a normal distribution in several dimensions."""
    return -0.5 * float(point @ point)


def spread(unit: Any) -> Any:
    """Map the unit cube to the region of the distribution."""
    return 10.0 * unit - 5.0


def rosenbrock(point: Any) -> float:
    return float((100.0 * (point[1:] - point[:-1] ** 2) ** 2 + (1 - point[:-1]) ** 2).sum())


def rastrigin(point: Any) -> float:
    return sum(x * x - 10 * math.cos(2 * math.pi * x) + 10 for x in point)


def ones(individual: Any) -> tuple[int]:
    return (sum(individual),)


def emcee(pool: Any, scale: int) -> Any:
    """An ensemble of 32 walkers: arrays of five floats to each task, a float back."""
    import emcee
    import numpy as np

    np.random.seed(1)
    start = np.random.randn(32, 5)
    sampler = emcee.EnsembleSampler(32, 5, log_normal, pool=pool)
    sampler.run_mcmc(start, 20 * scale)
    return sampler.get_chain().sum()


def dynesty(pool: Any, scale: int) -> Any:
    """Nested sampling: the state of a random walk to each task, and its end back."""
    import dynesty
    import numpy as np

    sampler = dynesty.NestedSampler(
        log_normal,
        spread,
        4,
        nlive=50,
        sample="rwalk",
        pool=pool,
        queue_size=8,
        rstate=np.random.default_rng(1),
    )
    sampler.run_nested(maxiter=25 * scale, print_progress=False)
    return sampler.results.logl.sum()


def scipy(pool: Any, scale: int) -> Any:
    """Differential evolution: an array of ten floats to each task, a float back."""
    from scipy.optimize import differential_evolution

    found = differential_evolution(
        rosenbrock,
        [(-3, 3)] * 10,
        workers=pool.map,
        updating="deferred",
        maxiter=2 * scale,
        polish=False,
        rng=1,
        tol=0,
    )
    return found.fun


def deap(pool: Any, scale: int) -> Any:
    """A genetic algorithm: lists of 100 ints, of a class of the program's, with a fitness."""
    from deap import algorithms, base, creator, tools

    if not hasattr(creator, "Individual"):
        creator.create("Fitness", base.Fitness, weights=(1.0,))
        creator.create("Individual", list, fitness=creator.Fitness)
    random.seed(1)
    toolbox = base.Toolbox()
    toolbox.register("bit", random.randint, 0, 1)
    toolbox.register("individual", tools.initRepeat, creator.Individual, toolbox.bit, 100)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", ones)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutFlipBit, indpb=0.05)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("map", pool.map)
    population, _ = algorithms.eaSimple(
        toolbox.population(n=200), toolbox, 0.5, 0.2, scale, verbose=False
    )
    return [list(individual) for individual in population]


def cma(pool: Any, scale: int) -> Any:
    """An evolution strategy, ask and tell: an array of ten floats to each task, a float back."""
    import cma

    strategy = cma.CMAEvolutionStrategy([2.0] * 10, 0.5, {"seed": 1, "verbose": -9})
    for _ in range(5 * scale):
        points = strategy.ask(20)
        strategy.tell(points, pool.map(rastrigin, points))
    return strategy.result.fbest


@dataclass(frozen=True)
class Program:
    name: str
    about: str
    run: Callable[[Any, int], Any]  # called with a pool and a scale; returns the program's result

    def __call__(self, pool: Any, quick: bool) -> list[Any]:
        return [self.run(pool, 2 if quick else 10)]


PROGRAMS = [
    Program(run.__name__, (run.__doc__ or "").rstrip("."), run)
    for run in (emcee, dynesty, scipy, deap, cma)
    if importlib.util.find_spec(run.__name__) is not None
]


def seconds(program: Program, pool: Any) -> float:
    start = time.perf_counter()
    program(pool, False)
    return time.perf_counter() - start


def measure(program: Program, pools: list[Any]) -> None:
    loop = Loop()
    times: list[list[float]] = [[] for _ in (*pools, loop)]
    tasks = []
    for _ in range(ROUNDS):
        for pool, found in zip((*pools, loop), times, strict=True):
            loop.seconds = 0.0
            found.append(seconds(program, pool))
        tasks.append(loop.seconds)
    stdlib, cpool, alone = (statistics.median(found) for found in times)
    # The time without the pool's share: the library's own time, and the tasks spread over the
    # workers.
    least = alone - statistics.median(tasks) * (1 - 1 / WORKERS)
    shares = stdlib - least, cpool - least
    print(
        f"{program.name:<10}{stdlib:>10.3f}{cpool:>10.3f}{alone:>10.3f}{least:>10.3f}"
        f"{shares[0]:>10.3f}{shares[1]:>10.3f}{shares[1] / shares[0]:>8.2f}"
    )


def main() -> None:
    import cpool

    names = [program.name for program in PROGRAMS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *names])
    chosen = parser.parse_args().names
    print(
        f"{'seconds':<10}"
        + "".join(
            f"{title:>10}" for title in ("stdlib", "cpool", "loop", "least", "share", "cpool's")
        )
        + f"{'ratio':>8}"
    )
    context = multiprocessing.get_context("fork")
    with context.Pool(WORKERS) as stdlib, cpool.Pool(WORKERS) as ours:
        for program in PROGRAMS:
            if not chosen or program.name in chosen:
                measure(program, [stdlib, ours])


if __name__ == "__main__":
    main()
