"""``python -m kdcube.proc``."""

import sys

from kdcube.proc.main import main

sys.exit(main())
