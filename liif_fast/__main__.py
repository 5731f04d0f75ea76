"""`python -m liif_fast`: the command line."""

from __future__ import annotations

import sys

from liif_fast.cli import main

sys.exit(main())
