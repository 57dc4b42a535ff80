"""`python -m services.auth serve | migrate | bootstrap | config | after-restore`."""

from services.auth.cli import DEPLOYABLE
from services.mesh.cli import main

main(DEPLOYABLE)
