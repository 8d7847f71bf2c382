"""`python -m launcher`: the `launch` command."""

import sys

from launcher.cli.main import main

sys.exit(main())
