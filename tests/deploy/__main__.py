"""`python -m tests.deploy`: write what follows from the product or from the templates; the diff is for a person."""

import sys

from tests.deploy.renders import GOLDEN, HELM, SETS, normalised, render
from tests.deploy.schema import GRPC_SERVICES, SCHEMA, grpc_services_text, schema_text


def main() -> int:
    """Write the schema, the list of services and, where Helm is, the golden renders."""
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    GRPC_SERVICES.write_text(grpc_services_text(), encoding="utf-8")
    if not HELM.exists():
        sys.stderr.write("chart: the golden renders are left as they are, Helm is not built: `make deploy-tools`\n")
        return 0
    GOLDEN.mkdir(exist_ok=True)
    for name in SETS:
        (GOLDEN / f"{name}.json").write_text(normalised(render(name)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
