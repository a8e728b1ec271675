"""`python -m perdure` is the command `perdure`."""

import sys

from perdure.cli.main import main

sys.exit(main())
