"""`python -m busyhour`."""

import sys

from busyhour.cli import main

sys.exit(main())
