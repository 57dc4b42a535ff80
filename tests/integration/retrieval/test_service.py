"""Retrieval as its callers see it: the gRPC contract, with the real encoder, database, cache and parser."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from parley.retrieval.v1 import (
    document_service_pb2,
    document_service_pb2_grpc,
    knowledge_base_pb2,
    knowledge_base_service_pb2,
    knowledge_base_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from services.mesh.errors import MeshError, Reason
from services.mesh.ids import new_id
from services.mesh.interceptors.identity import AUTHORIZATION_KEY
from services.mesh.status import from_rpc_error
from tests.support.pdf import inflating_pdf, pdf
from tests.support.tokens import ORGANIZATION, Issuer

_OTHER = "org_01m81yxdt5er79mzf15ea65xyz"
_SCOPES = ("knowledge:read", "knowledge:write")
_HANDBOOK = (
    "# Handbook\n\n## Vacation\n\nEvery employee has thirty days of paid vacation per year.\n\n"
    "## Invoices\n\nInvoices are paid within fourteen days after they arrive.\n"
)

Metadata = tuple[tuple[str, str], ...]


class Api:
    """All stubs, in the name of one organization."""

    def __init__(
        self, channel: grpc.aio.Channel, issuer: Issuer, organization: str, scopes: tuple[str, ...] = _SCOPES
    ) -> None:
        token = issuer.mint(audience="retrieval", scopes=scopes, organization_id=organization)
        self.metadata: Metadata = ((AUTHORIZATION_KEY, f"Bearer {token}"),)
        self.bases = knowledge_base_service_pb2_grpc.KnowledgeBaseServiceStub(channel)
        self.documents = document_service_pb2_grpc.DocumentServiceStub(channel)
        self.searching = search_service_pb2_grpc.SearchServiceStub(channel)
        self.embedding = search_service_pb2_grpc.EmbeddingServiceStub(channel)

    async def create(self, name: str = "Handbook", request_id: str = "") -> knowledge_base_pb2.KnowledgeBase:
        request = knowledge_base_service_pb2.CreateKnowledgeBaseRequest(display_name=name, request_id=request_id)
        return (await self.bases.CreateKnowledgeBase(request, metadata=self.metadata)).knowledge_base

    async def upload(
        self, knowledge_base_id: str, content: bytes, name: str = "handbook.md", piece: int = 1 << 19
    ) -> knowledge_base_pb2.Document:
        async def messages() -> AsyncIterator[document_service_pb2.UploadDocumentRequest]:
            header = document_service_pb2.UploadDocumentHeader(knowledge_base_id=knowledge_base_id, display_name=name)
            yield document_service_pb2.UploadDocumentRequest(header=header)
            for start in range(0, len(content), piece):
                yield document_service_pb2.UploadDocumentRequest(data=content[start : start + piece])

        return (await self.documents.UploadDocument(messages(), metadata=self.metadata)).document

    async def settled(self, document_id: str) -> knowledge_base_pb2.Document:
        request = document_service_pb2.WatchDocumentRequest(document_id=document_id)
        states = [state.document async for state in self.documents.WatchDocument(request, metadata=self.metadata)]
        return states[-1]

    async def search(self, knowledge_base_id: str, query: str, **fields: Any) -> search_service_pb2.SearchResponse:
        request = search_service_pb2.SearchRequest(knowledge_base_id=knowledge_base_id, query=query, **fields)
        return await self.searching.Search(request, metadata=self.metadata)


@pytest.fixture
def api(channel: grpc.aio.Channel, issuer: Issuer) -> Api:
    return Api(channel, issuer, ORGANIZATION)


@pytest.fixture
def other(channel: grpc.aio.Channel, issuer: Issuer) -> Api:
    return Api(channel, issuer, _OTHER)


async def _refused(call: Awaitable[object]) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)


@pytest.mark.usefixtures("worker")
async def test_uploaded_document_answers_with_citable_passages(api: Api) -> None:
    base = await api.create()
    uploaded = await api.upload(base.id, _HANDBOOK.encode())
    ready = await api.settled(uploaded.id)
    base = (
        await api.bases.GetKnowledgeBase(
            knowledge_base_service_pb2.GetKnowledgeBaseRequest(knowledge_base_id=base.id), metadata=api.metadata
        )
    ).knowledge_base

    found = await api.search(
        base.id,
        "How many days off do I get?",
        mode=search_service_pb2.SEARCH_MODE_SELECTIVE,
        min_sequence=base.sequence,
    )

    assert ready.state == knowledge_base_pb2.DOCUMENT_STATE_READY
    assert (ready.media_type, ready.chunk_count, ready.progress) == ("text/markdown", 2, 1.0)
    best = found.passages[0]
    assert best.text == "Every employee has thirty days of paid vacation per year."
    assert (best.document_id, best.document_version, best.document_name) == (uploaded.id, 1, "handbook.md")
    assert best.locator == "Handbook > Vacation"
    assert found.decision == search_service_pb2.SEARCH_DECISION_RETRIEVED
    assert found.sequence == base.sequence == 1
    cited = await api.documents.GetDocumentText(
        document_service_pb2.GetDocumentTextRequest(
            document_id=best.document_id, document_version=best.document_version, start=best.start, end=best.end
        ),
        metadata=api.metadata,
    )
    assert cited.text == best.text


@pytest.mark.usefixtures("worker")
async def test_question_about_something_else_is_skipped(api: Api) -> None:
    base = await api.create()
    await api.settled((await api.upload(base.id, _HANDBOOK.encode())).id)

    found = await api.search(base.id, "Write a poem about the sea", mode=search_service_pb2.SEARCH_MODE_SELECTIVE)

    assert (list(found.passages), found.decision) == ([], search_service_pb2.SEARCH_DECISION_SKIPPED)


@pytest.mark.usefixtures("worker")
async def test_deleted_document_answers_nothing_from_then_on(api: Api) -> None:
    base = await api.create()
    uploaded = await api.settled((await api.upload(base.id, _HANDBOOK.encode())).id)
    assert (await api.search(base.id, "vacation")).passages

    await api.documents.DeleteDocument(
        document_service_pb2.DeleteDocumentRequest(document_id=uploaded.id), metadata=api.metadata
    )

    assert not (await api.search(base.id, "vacation")).passages


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.DOCUMENT_UNREADABLE),
        (b"x" * (30 * 1024 * 1024), Reason.DOCUMENT_TOO_LARGE),
        (pdf([["secret"]], encrypted=True), Reason.DOCUMENT_ENCRYPTED),
        (b"PK\x03\x04 an archive", Reason.DOCUMENT_UNSUPPORTED),
        (b"\x00\x01\x02 noise", Reason.DOCUMENT_UNSUPPORTED),
        (b"%PDF-1.7 damaged", Reason.DOCUMENT_UNREADABLE),
        (inflating_pdf(300 * 1024 * 1024), Reason.DOCUMENT_UNREADABLE),
    ],
    ids=["empty", "30 MB", "encrypted", "archive", "noise", "damaged", "bomb"],
)
async def test_bad_file_is_refused_with_its_reason_and_nothing_stays(api: Api, content: bytes, reason: Reason) -> None:
    base = await api.create()

    refused = await _refused(api.upload(base.id, content, "report.pdf"))

    assert refused.reason is reason
    listed = await api.documents.ListDocuments(
        document_service_pb2.ListDocumentsRequest(knowledge_base_id=base.id), metadata=api.metadata
    )
    assert not listed.documents


async def test_text_that_calls_itself_pdf_is_refused(api: Api) -> None:
    base = await api.create()

    refused = await _refused(api.upload(base.id, b"Just words.", "Report.PDF"))

    assert refused.reason is Reason.DOCUMENT_UNSUPPORTED
    assert refused.metadata["media_type"] == "text/plain"


async def test_upload_without_a_header_is_refused(api: Api) -> None:
    async def messages() -> AsyncIterator[document_service_pb2.UploadDocumentRequest]:
        yield document_service_pb2.UploadDocumentRequest(data=b"text")

    refused = await _refused(api.documents.UploadDocument(messages(), metadata=api.metadata))

    assert [violation.field for violation in refused.fields] == ["content"]


async def test_second_header_is_refused(api: Api) -> None:
    base = await api.create()
    header = document_service_pb2.UploadDocumentHeader(knowledge_base_id=base.id, display_name="n.txt")

    async def messages() -> AsyncIterator[document_service_pb2.UploadDocumentRequest]:
        yield document_service_pb2.UploadDocumentRequest(header=header)
        yield document_service_pb2.UploadDocumentRequest(header=header)

    refused = await _refused(api.documents.UploadDocument(messages(), metadata=api.metadata))

    assert refused.reason is Reason.INVALID_ARGUMENT


async def test_knowledge_bases_are_paged_newest_first(api: Api) -> None:
    made = [(await api.create(f"kb {number}")).id for number in range(5)]
    listed: list[str] = []
    token = ""
    for _ in range(3):
        request = knowledge_base_service_pb2.ListKnowledgeBasesRequest(page_size=2, page_token=token)
        page = await api.bases.ListKnowledgeBases(request, metadata=api.metadata)
        listed += [base.id for base in page.knowledge_bases]
        token = page.next_page_token

    assert listed == sorted(made, reverse=True)
    assert token == ""


async def test_documents_are_paged_and_a_token_belongs_to_its_list(api: Api) -> None:
    base, second = await api.create("one"), await api.create("two")
    for number in range(3):
        await api.upload(base.id, b"text %d" % number, f"{number}.txt")
    request = document_service_pb2.ListDocumentsRequest(knowledge_base_id=base.id, page_size=2)
    page = await api.documents.ListDocuments(request, metadata=api.metadata)

    rest = await api.documents.ListDocuments(
        document_service_pb2.ListDocumentsRequest(knowledge_base_id=base.id, page_token=page.next_page_token),
        metadata=api.metadata,
    )
    stolen = document_service_pb2.ListDocumentsRequest(knowledge_base_id=second.id, page_token=page.next_page_token)

    assert [document.display_name for document in (*page.documents, *rest.documents)] == ["2.txt", "1.txt", "0.txt"]
    refused = await _refused(api.documents.ListDocuments(stolen, metadata=api.metadata))
    assert [violation.field for violation in refused.fields] == ["page_token"]


async def test_repeated_creation_is_one_knowledge_base(api: Api) -> None:
    first, again = await api.create(request_id="r1"), await api.create(request_id="r1")

    assert first.id == again.id
    assert (await _refused(api.create("Other", request_id="r1"))).reason is Reason.IDEMPOTENCY_MISMATCH
    assert (await _refused(api.create("Handbook", request_id="r2"))).reason is Reason.ALREADY_EXISTS


@pytest.mark.parametrize("paths", [["description"], None])
async def test_update_follows_its_mask(api: Api, paths: list[str] | None) -> None:
    base = await api.create()
    request = knowledge_base_service_pb2.UpdateKnowledgeBaseRequest(
        knowledge_base_id=base.id, knowledge_base=knowledge_base_pb2.KnowledgeBase(description="all of it")
    )
    if paths is not None:
        request.update_mask.paths.extend(paths)

    changed = (await api.bases.UpdateKnowledgeBase(request, metadata=api.metadata)).knowledge_base

    assert (changed.display_name, changed.description) == ("Handbook", "all of it")


async def test_update_of_what_cannot_change_is_refused(api: Api) -> None:
    base = await api.create()
    request = knowledge_base_service_pb2.UpdateKnowledgeBaseRequest(knowledge_base_id=base.id)
    request.update_mask.paths.append("encoder")

    refused = await _refused(api.bases.UpdateKnowledgeBase(request, metadata=api.metadata))

    assert [violation.field for violation in refused.fields] == ["update_mask"]


async def test_watch_without_follow_ends_at_once(api: Api) -> None:
    base = await api.create()
    uploaded = await api.upload(base.id, _HANDBOOK.encode())
    request = document_service_pb2.WatchDocumentRequest(document_id=uploaded.id, follow=False)

    states = [state.document.state async for state in api.documents.WatchDocument(request, metadata=api.metadata)]

    assert states == [knowledge_base_pb2.DOCUMENT_STATE_QUEUED]


async def test_embeddings_are_unit_vectors_of_the_named_encoder(api: Api) -> None:
    request = search_service_pb2.EmbedRequest(texts=["a cat", "a kitten", "an invoice"])

    made = await api.embedding.Embed(request, metadata=api.metadata)

    vectors = [list(one.values) for one in made.embeddings]
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert [len(vector) for vector in vectors] == [384] * 3
    assert near > far
    assert made.encoder.startswith("all-MiniLM-L6-v2-int8@")
    assert (made.input_tokens, made.dimension) == (14, 384)


@pytest.mark.parametrize("kind", ["EMBEDDING_KIND_QUESTION", "EMBEDDING_KIND_PASSAGE"])
async def test_texts_are_embedded_by_the_encoder_that_is_named(api: Api, kind: str) -> None:
    request = search_service_pb2.EmbedRequest(
        texts=["a cat", "a cat"], kind=search_service_pb2.EmbeddingKind.Value(kind), model="all-MiniLM-L6-v2-int8"
    )

    made = await api.embedding.Embed(request, metadata=api.metadata)

    assert made.embeddings[0] == made.embeddings[1]


async def test_encoder_that_is_not_there_is_refused(api: Api) -> None:
    request = search_service_pb2.EmbedRequest(texts=["a cat"], model="text-embedding-3-small")

    refused = await _refused(api.embedding.Embed(request, metadata=api.metadata))

    assert refused.reason is Reason.MODEL_UNKNOWN


async def test_unknown_kind_of_text_is_refused(api: Api) -> None:
    request = search_service_pb2.EmbedRequest(texts=["a cat"])
    request.kind = 99  # type: ignore[assignment] # what a newer client may send

    refused = await _refused(api.embedding.Embed(request, metadata=api.metadata))

    assert [violation.field for violation in refused.fields] == ["kind"]


@pytest.mark.parametrize("texts", [[], ["x"] * 257, ["x", ""], ["x" * 8_001]])
async def test_embedding_limits_hold(api: Api, texts: list[str]) -> None:
    refused = await _refused(api.embedding.Embed(search_service_pb2.EmbedRequest(texts=texts), metadata=api.metadata))

    assert refused.reason is Reason.INVALID_ARGUMENT
    assert refused.fields[0].field.startswith("texts")


async def test_unknown_mode_is_refused(api: Api) -> None:
    base = await api.create()

    refused = await _refused(api.search(base.id, "x", mode=99))

    assert [violation.field for violation in refused.fields] == ["mode"]


def _calls_on(api: Api, base_id: str, document_id: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every method that names a knowledge base or a document; none is called yet."""
    bases, documents = knowledge_base_service_pb2, document_service_pb2
    metadata = api.metadata
    update = bases.UpdateKnowledgeBaseRequest(
        knowledge_base_id=base_id, knowledge_base=knowledge_base_pb2.KnowledgeBase(display_name="stolen")
    )
    return {
        "get base": lambda: api.bases.GetKnowledgeBase(
            bases.GetKnowledgeBaseRequest(knowledge_base_id=base_id), metadata=metadata
        ),
        "update base": lambda: api.bases.UpdateKnowledgeBase(update, metadata=metadata),
        "delete base": lambda: api.bases.DeleteKnowledgeBase(
            bases.DeleteKnowledgeBaseRequest(knowledge_base_id=base_id), metadata=metadata
        ),
        "search": lambda: api.search(base_id, "vacation"),
        "list": lambda: api.documents.ListDocuments(
            documents.ListDocumentsRequest(knowledge_base_id=base_id), metadata=metadata
        ),
        "upload": lambda: api.upload(base_id, b"text"),
        "get": lambda: api.documents.GetDocument(
            documents.GetDocumentRequest(document_id=document_id), metadata=metadata
        ),
        "text": lambda: api.documents.GetDocumentText(
            documents.GetDocumentTextRequest(document_id=document_id), metadata=metadata
        ),
        "watch": lambda: api.settled(document_id),
        "delete": lambda: api.documents.DeleteDocument(
            documents.DeleteDocumentRequest(document_id=document_id), metadata=metadata
        ),
    }


@pytest.mark.usefixtures("worker")
async def test_foreign_and_random_ids_get_the_same_answer(api: Api, other: Api) -> None:
    base = await api.create()
    document = await api.settled((await api.upload(base.id, _HANDBOOK.encode())).id)
    await api.search(base.id, "vacation")
    foreign = {name: await _refused(call()) for name, call in _calls_on(other, base.id, document.id).items()}
    random = {name: await _refused(call()) for name, call in _calls_on(other, new_id("kb"), new_id("doc")).items()}

    assert {error.reason for error in foreign.values()} == {Reason.NOT_FOUND}
    assert {name: repr(error) for name, error in foreign.items()} == {
        name: repr(error) for name, error in random.items()
    }
    assert len((await api.search(base.id, "vacation")).passages) == 2
    assert not (
        await other.bases.ListKnowledgeBases(
            knowledge_base_service_pb2.ListKnowledgeBasesRequest(), metadata=other.metadata
        )
    ).knowledge_bases


async def test_missing_scope_is_refused(channel: grpc.aio.Channel, issuer: Issuer) -> None:
    reader = Api(channel, issuer, ORGANIZATION, scopes=("knowledge:read",))

    assert (await _refused(reader.create())).reason is Reason.SCOPE_MISSING
