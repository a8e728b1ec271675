"""`examples/approval.py` as anybody runs it: what it prints."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "approval.py"
ASKED = """\
The run is waiting; paid so far: []
Clerk wants to pay {'amount': 4200, 'to': 'Nordlys Power', 'account': '1234.56.78903'}: 4200 NOK is above 100 NOK
"""


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (
            "approve",
            "The run is completed: The bill is paid.\nPaid: 4200 NOK to Nordlys Power from 1234.56.78903\n",
        ),
        ("deny", "The run is completed: The bill is not paid.\nPaid: nothing\n"),
    ],
)
def test_a_payment_waits_for_a_person(answer: str, end: str) -> None:
    ran = subprocess.run([sys.executable, str(EXAMPLE), answer], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, ASKED + end, "")
