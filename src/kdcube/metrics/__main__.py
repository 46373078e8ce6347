"""``python -m kdcube.metrics``."""

import sys

from kdcube.metrics.main import main

if __name__ == "__main__":
    sys.exit(main())
