"""Prompts, their revisions and aliases."""

from parley.inference.v1 import prompt_service_pb2, prompt_service_pb2_grpc
from services.inference.money.purse import Payer, Purpose
from services.inference.prompts.library import Library
from services.inference.prompts.preview import Previews
from services.inference.wire import prompts
from services.mesh.pages import next_page_token, parse_page
from services.mesh.rpc import RpcContext, principal


class PromptServicer(prompt_service_pb2_grpc.PromptServiceServicer):
    """Serves parley.inference.v1.PromptService for the caller's organization.

    Args:
        library: keeps prompts.
        previews: show what a model would be given.
    """

    def __init__(self, library: Library, previews: Previews) -> None:
        self._library = library
        self._previews = previews

    async def CreatePrompt(
        self, request: prompt_service_pb2.CreatePromptRequest, context: RpcContext
    ) -> prompt_service_pb2.CreatePromptResponse:
        """See the contract."""
        content, repeat = prompts.content(request.content), prompts.repeat(request)
        made = await self._library.create(author(), request.name, request.description, content, request.note, repeat)
        return prompt_service_pb2.CreatePromptResponse(prompt=prompts.to_prompt(made))

    async def GetPrompt(
        self, request: prompt_service_pb2.GetPromptRequest, context: RpcContext
    ) -> prompt_service_pb2.GetPromptResponse:
        """See the contract."""
        found = await self._library.get(principal().organization_id, request.prompt)
        return prompt_service_pb2.GetPromptResponse(prompt=prompts.to_prompt(found))

    async def ListPrompts(
        self, request: prompt_service_pb2.ListPromptsRequest, context: RpcContext
    ) -> prompt_service_pb2.ListPromptsResponse:
        """See the contract."""
        organization_id = principal().organization_id
        query = ("prompts", organization_id)
        page = parse_page(request.page_size, request.page_token, query=query)
        after = str(page.after[0]) if page.after else ""
        found = await self._library.page(organization_id, after=after, limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token((shown[-1].name,), query=query) if len(found) > page.size else ""
        return prompt_service_pb2.ListPromptsResponse(
            prompts=[prompts.to_prompt(one) for one in shown], next_page_token=token
        )

    async def UpdatePrompt(
        self, request: prompt_service_pb2.UpdatePromptRequest, context: RpcContext
    ) -> prompt_service_pb2.UpdatePromptResponse:
        """See the contract."""
        name, description = prompts.change(request)
        changed = await self._library.change(
            principal().organization_id, request.prompt, name=name, description=description
        )
        return prompt_service_pb2.UpdatePromptResponse(prompt=prompts.to_prompt(changed))

    async def DeletePrompt(
        self, request: prompt_service_pb2.DeletePromptRequest, context: RpcContext
    ) -> prompt_service_pb2.DeletePromptResponse:
        """See the contract."""
        await self._library.delete(principal().organization_id, request.prompt)
        return prompt_service_pb2.DeletePromptResponse()

    async def CreatePromptRevision(
        self, request: prompt_service_pb2.CreatePromptRevisionRequest, context: RpcContext
    ) -> prompt_service_pb2.CreatePromptRevisionResponse:
        """See the contract."""
        content, repeat = prompts.content(request.content), prompts.repeat(request)
        made = await self._library.add_revision(author(), request.prompt, content, request.note, repeat)
        return prompt_service_pb2.CreatePromptRevisionResponse(revision=prompts.to_revision(made))

    async def GetPromptRevision(
        self, request: prompt_service_pb2.GetPromptRevisionRequest, context: RpcContext
    ) -> prompt_service_pb2.GetPromptRevisionResponse:
        """See the contract."""
        found = await self._library.revision(principal().organization_id, request.prompt, request.revision)
        return prompt_service_pb2.GetPromptRevisionResponse(revision=prompts.to_revision(found))

    async def ListPromptRevisions(
        self, request: prompt_service_pb2.ListPromptRevisionsRequest, context: RpcContext
    ) -> prompt_service_pb2.ListPromptRevisionsResponse:
        """See the contract."""
        organization_id = principal().organization_id
        query = ("prompt_revisions", organization_id, request.prompt)
        page = parse_page(request.page_size, request.page_token, query=query)
        before = int(page.after[0]) if page.after else None
        found = await self._library.revisions(organization_id, request.prompt, before=before, limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token((shown[-1].number,), query=query) if len(found) > page.size else ""
        return prompt_service_pb2.ListPromptRevisionsResponse(
            revisions=[prompts.to_revision(one) for one in shown], next_page_token=token
        )

    async def SetPromptAlias(
        self, request: prompt_service_pb2.SetPromptAliasRequest, context: RpcContext
    ) -> prompt_service_pb2.SetPromptAliasResponse:
        """See the contract."""
        changed = await self._library.set_alias(
            principal().organization_id,
            request.prompt,
            request.alias,
            request.revision,
            expected=prompts.expected_revision(request),
        )
        return prompt_service_pb2.SetPromptAliasResponse(prompt=prompts.to_prompt(changed))

    async def DeletePromptAlias(
        self, request: prompt_service_pb2.DeletePromptAliasRequest, context: RpcContext
    ) -> prompt_service_pb2.DeletePromptAliasResponse:
        """See the contract."""
        expected = prompts.expected_revision(request)
        await self._library.delete_alias(principal().organization_id, request.prompt, request.alias, expected=expected)
        return prompt_service_pb2.DeletePromptAliasResponse()

    async def RenderPrompt(
        self, request: prompt_service_pb2.RenderPromptRequest, context: RpcContext
    ) -> prompt_service_pb2.RenderPromptResponse:
        """See the contract."""
        preview = await self._previews.of(
            author(), prompts.reference_to_render(request), question=request.question, model=request.model
        )
        return prompts.to_preview(preview)


def author() -> Payer:
    """Whose prompts they are, and in whose name examples are embedded where nothing is generated."""
    caller = principal()
    return Payer(
        organization_id=caller.organization_id,
        user_id=caller.subject_id,
        credential_id=caller.credential_id,
        purpose=Purpose.EMBEDDING,
    )
