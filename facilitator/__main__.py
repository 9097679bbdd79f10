"""`python -m facilitator` is the command `facilitator`."""

import sys

from facilitator.commands.main import main

sys.exit(main())
