"""`python -m facilitator` is the command `facilitator`."""

import sys

from facilitator.cli import main

sys.exit(main())
