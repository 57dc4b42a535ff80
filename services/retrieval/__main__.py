"""`python -m services.retrieval serve | worker | migrate | config`."""

from services.mesh.cli import main
from services.retrieval.app import DEPLOYABLE

main(DEPLOYABLE)
