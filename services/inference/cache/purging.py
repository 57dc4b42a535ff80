"""Stored answers made void by hand."""

from services.inference.cache import metrics
from services.inference.cache.archive import Archive
from services.inference.routing import Router


class Purging:
    """Makes answers of an organization void.

    Args:
        archive: where they lie.
        router: knows the names that there are.
    """

    def __init__(self, archive: Archive, router: Router) -> None:
        self._archive = archive
        self._router = router

    async def purge(self, organization_id: str, model: str) -> None:
        """All answers, or those that were asked of a model or a route, or written by it.

        Raises:
            ModelUnknown: no configured provider serves it.
            Unavailable, Overloaded: the answers cannot be reached; they may be void or not.
        """
        if model:
            self._router.listing(model)
        await self._archive.void(organization_id, model)
        metrics.PURGES.labels("model" if model else "organization").inc()
