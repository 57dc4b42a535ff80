"""`python -m services.retrieval serve | worker | migrate | config | after-restore`."""

from services.mesh.cli import main
from services.retrieval.cli import DEPLOYABLE

main(DEPLOYABLE)
