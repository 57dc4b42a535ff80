"""Minutes of promtool, and a Prometheus beside a stack: they belong to `make test-deploy`."""

import os

collect_ignore_glob = [] if "PARLEY_TEST_DEPLOY" in os.environ else ["test_*.py"]
