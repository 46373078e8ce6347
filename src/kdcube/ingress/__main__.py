"""``python -m kdcube.ingress``."""

import sys

from kdcube.ingress.main import main

if __name__ == "__main__":
    sys.exit(main())
