"""What needs Helm, promtool or minutes belongs to `make test-deploy`; the other tests read the committed renders.

Where Helm cannot be built, that target has said so by name (`dev.tools.deploy`) before it comes here.
"""

import os

from tests.deploy.renders import HELM

_WITH_HELM = ["test_helm_*.py"]
_WITH_MINUTES = ["test_running.py", "alerts/*"]

if "PARLEY_TEST_DEPLOY" not in os.environ:
    collect_ignore_glob = _WITH_HELM + _WITH_MINUTES
elif not HELM.exists():
    collect_ignore_glob = _WITH_HELM
else:
    collect_ignore_glob = []
