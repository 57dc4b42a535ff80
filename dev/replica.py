"""Streaming replicas of PostgreSQL: each is copied from its running primary when it starts, and follows it then."""

import shutil

from dev.accounts import settle
from dev.ports import LOOPBACK
from dev.postgres import SUPERUSER, Cluster, Prepared, checked, installed_programs
from dev.spawning import Claim, CommandLine, launched

_COPY_S_MAX = 280.0


def copied(primary: Cluster, port: int, replica: Cluster) -> Prepared:
    """A replica of the server on `primary` that listens on `port`, ready to be started; what there was of it is gone.

    It is made anew every time: the primary keeps no log for a replica that is away, and may have been put back to an
    earlier instant or moved to another port since.

    Raises:
        DevError: the primary does not answer, or copying failed.
    """
    replica.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    account, programs = settle(replica.folder / "server", installed_programs())
    draft = replica.data.with_name("data.new")
    shutil.rmtree(draft, ignore_errors=True)
    line: CommandLine = [programs / "pginstall" / "bin" / "pg_basebackup", "--pgdata", draft, "--write-recovery-conf"]
    line += ["--wal-method", "stream", "--checkpoint", "fast", "--no-sync", "--no-password"]
    line += ["--host", LOOPBACK, "--port", str(port), "--username", SUPERUSER]
    # Whoever still has the old data open, after a kill, is waited for.
    command = launched(line, account=account, claim=Claim(replica.folder / "claim"))
    checked(command, environment={"PGPASSWORD": primary.superuser_password()}, within_s=_COPY_S_MAX)
    shutil.rmtree(replica.data, ignore_errors=True)
    draft.rename(replica.data)
    return replica.prepare()
