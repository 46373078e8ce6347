"""``python -m kdcube.proxylogin``."""

import sys

from kdcube.proxylogin.main import main

if __name__ == "__main__":
    sys.exit(main())
