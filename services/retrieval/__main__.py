"""`python -m services.retrieval serve | worker | migrate | config`."""

from services.mesh.cli import main
from services.retrieval.cli import DEPLOYABLE

main(DEPLOYABLE)
