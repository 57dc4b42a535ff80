"""`python -m services.conversation serve | worker | migrate | config`."""

from services.conversation.app import DEPLOYABLE
from services.mesh.cli import main

main(DEPLOYABLE)
