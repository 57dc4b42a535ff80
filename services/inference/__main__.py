"""`python -m services.inference serve | config`."""

from services.inference.app import DEPLOYABLE
from services.mesh.cli import main

main(DEPLOYABLE)
