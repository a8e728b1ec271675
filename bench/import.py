"""What importing and installing the core costs.

The import runs in fresh interpreters, beside an empty one and ones that import pydantic or asyncio alone; then what is
loaded only when the first runtime is made, or the first agent is run. The facts are the heavy modules that were loaded,
which should be none, our own modules that were, and the distributions that the core install brings, at most twelve.
Modules are read as bytecode, as an installed package is: the first, unmeasured import writes it where it is missing.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

from _harness import Bench

IMPORT = "from perdure import Agent, Network, tool"
WITH_RUNTIME = "from perdure import Agent, Network, Runtime, tool"
MADE = "from perdure import Runtime; Runtime('sqlite:///never-opened.db')"
RUN = "import asyncio; from perdure import Agent; asyncio.run(Agent('A', model='offline').run('Hi'))"
BUDGET_MS = 120
MAX_DISTRIBUTIONS = 12
FORBIDDEN = (
    "asyncio",
    "logging",
    "hashlib",
    "pydantic",
    "openai",
    "anthropic",
    "google.genai",
    "mcp",
    "sqlite3",
    "psycopg",
    "fastapi",
    "uvicorn",
    "httpx",
    "rich",
    "opentelemetry",
    "genai_prices",
    "urllib.request",
)


def run_python(code: str) -> str:
    """Run code in a fresh interpreter, with bytecode and without coverage, and return what it prints."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


def loaded_modules(line: str) -> dict[str, list[str]]:
    """Return what is loaded after an import: heavy modules, and our own."""
    code = f"import sys, json; {line}; print(json.dumps(sorted(sys.modules)))"
    names: list[str] = json.loads(run_python(code))
    return {
        "forbidden": [name for name in FORBIDDEN if name in names],
        "own": [name for name in names if name.startswith("perdure.")],
    }


def core_distributions(root: str = "perdure") -> list[str]:
    """Return the distributions a core install brings, by walking the requirements without extras."""
    found: set[str] = set()
    todo = [root]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # its environment marker does not hold here
            continue
        found.add(name)
        for requirement in needed:
            specifier, _, marker = requirement.partition(";")
            match = re.match(r"[A-Za-z0-9._-]+", specifier)
            if match and "extra" not in marker:
                todo.append(match.group())
    return sorted(found)


def main() -> None:
    """Measure and report."""
    bench = Bench("import", unit="ms")
    bench.add("python -c pass", lambda: run_python("pass"))
    bench.add("import pydantic", lambda: run_python("import pydantic"))
    bench.add("import asyncio", lambda: run_python("import asyncio"))
    bench.add(IMPORT, lambda: run_python(IMPORT), budget=BUDGET_MS)
    bench.add(WITH_RUNTIME, lambda: run_python(WITH_RUNTIME), budget=BUDGET_MS)
    bench.add(MADE, lambda: run_python(MADE))
    bench.add(RUN, lambda: run_python(RUN))
    names = core_distributions()
    bench.fact("modules_loaded", {line: loaded_modules(line) for line in (IMPORT, WITH_RUNTIME)})
    bench.fact("core_distributions", {"count": len(names), "budget": MAX_DISTRIBUTIONS, "names": names})
    bench.run(floor="python -c pass")


if __name__ == "__main__":
    main()
