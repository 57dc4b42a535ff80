"""What needs tools built with Go, promtool or minutes belongs to `make test-deploy`.

The other tests read the committed renders. Where the tools cannot be built, that target has said so by name
(`dev.tools.deploy`) before it comes here.
"""

import os

from tests.deploy.renders import HELM

_WITH_GO = ["test_helm_*.py", "test_workflows.py"]
_WITH_MINUTES = ["test_running.py", "alerts/*"]

if "PARLEY_TEST_DEPLOY" not in os.environ:
    collect_ignore_glob = _WITH_GO + _WITH_MINUTES
elif not HELM.exists():
    collect_ignore_glob = _WITH_GO
else:
    collect_ignore_glob = []
