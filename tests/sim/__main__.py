"""`python -m tests.sim SEED [COUNT [AGE]]` repeats seeds and says what is wrong."""

import sys
import time

from tests.sim.check import compare, problems
from tests.sim.plan import NEWEST, Plan
from tests.sim.world import World

if __name__ == "__main__":
    first = int(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    age = int(sys.argv[3]) if len(sys.argv) > 3 else NEWEST
    began = time.monotonic()
    bad = 0
    for seed in range(first, first + count):
        plan = Plan.of(seed, age)
        if count == 1:
            print(plan)
        started = time.monotonic()
        world = World(plan).run()
        if time.monotonic() - started > 2:
            print(
                seed,
                f"took {time.monotonic() - started:.1f} s, {world.turns.steps} steps, {world.turns.now:.1f} s virtual",
            )
        wrong = problems(world) or compare(world)
        bad += bool(wrong)
        for one in wrong:
            print(seed, one[:2000])
        if count == 1:
            print(f"{world.turns.steps} steps, {world.turns.now:.1f} s, {len(world.effects)} effects")
    print(f"{count} seeds, {bad} bad, {time.monotonic() - began:.1f} s")
    sys.exit(bad > 0)
