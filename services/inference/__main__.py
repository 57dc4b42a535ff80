"""`python -m services.inference serve | migrate | config | after-restore`."""

from services.inference.cli import DEPLOYABLE
from services.mesh.cli import main

main(DEPLOYABLE)
