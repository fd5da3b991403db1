"""A notebook, cell by cell: functions and classes that are defined and changed after the pool was
made. Editors that know `# %%` run it cell by cell."""

# %% One pool for the whole notebook.
from cpool import Pool

pool = Pool(2)

# %% A class and a function, defined when the workers run already.
from dataclasses import dataclass  # noqa: E402


@dataclass
class Reading:
    place: str
    celsius: float


def mean(readings: list[Reading]) -> Reading:  # pyright: ignore[reportRedeclaration]
    """Runs in a worker process."""
    return Reading(readings[0].place, sum(each.celsius for each in readings) / len(readings))


days = [[Reading("Oslo", -3.0), Reading("Oslo", 1.0)], [Reading("Cairo", 20.0)]]
print(pool.map(mean, days))

# %% The function is changed, and the next cell has the new one. So are the values that it uses.
digits = 1


def mean(readings: list[Reading]) -> Reading:  # type: ignore[no-redef]
    total = sum(each.celsius for each in readings)
    return Reading(readings[0].place.upper(), round(total / len(readings) * 1.8 + 32, digits))


print(pool.map(mean, days))

# %% Lambdas, and what was defined in earlier cells within them.
limit = 60
print(pool.map(lambda day: mean(day).celsius > limit, days))


# %% An exception of the notebook's own class comes back as that.
class NoReading(Exception):
    pass


def first(readings: list[Reading]) -> Reading:
    if not readings:
        raise NoReading("nothing was measured")
    return readings[0]


try:
    pool.map(first, [*days, []])
except NoReading as error:
    print(f"NoReading: {error}")

# %% The last cell.
pool.terminate()
