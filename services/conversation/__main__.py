"""`python -m services.conversation serve | worker | migrate | config | queue | redrive | after-restore`."""

from services.conversation.cli import DEPLOYABLE
from services.mesh.cli import main

main(DEPLOYABLE)
