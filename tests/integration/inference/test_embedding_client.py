"""What inference asks retrieval for, over real gRPC with identity and policy."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc
from parley.retrieval.v1 import search_service_pb2, search_service_pb2_grpc
from services.auth.scopes import WORKLOAD_SCOPES
from services.inference import clients
from services.inference.embedding import Embedded
from services.inference.money.purse import Payer
from services.inference.settings import EmbeddingSettings
from services.mesh import tokens
from services.mesh.client import open_channel
from services.mesh.errors import InvalidArgument, MeshError, Overloaded, RetrievalUnavailable, invalid_field
from services.mesh.rpc import RpcContext
from services.mesh.server import running
from services.mesh.settings import ServerSettings
from services.mesh.tokens import WorkloadTokens
from tests.support.fakes.embedding import ENCODER, FakeEmbedding, vector
from tests.support.fakes.serving import serving
from tests.support.tokens import ORGANIZATION, USER, Issuer

ADA = Payer(organization_id=ORGANIZATION, user_id=USER, credential_id="key_1")


@serving(token_service_pb2_grpc.TokenServiceServicer)
class _Tokens:
    """Mints for inference what auth lets it have."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.asked: list[tuple[str, str, str]] = []

    async def ExchangeToken(
        self, request: token_service_pb2.ExchangeTokenRequest, context: RpcContext
    ) -> token_service_pb2.ExchangeTokenResponse:
        absent = request.on_behalf_of
        self.asked.append((request.workload.name, absent.organization_id, absent.user_id))
        minted = [
            token_service_pb2.InternalToken(
                audience=audience, token=self._issuer.mint(audience=audience, scopes=WORKLOAD_SCOPES["inference"])
            )
            for audience in request.audiences
        ]
        return token_service_pb2.ExchangeTokenResponse(tokens=minted)


class _Mute(FakeEmbedding):
    """Never answers."""

    async def Embed(
        self, request: search_service_pb2.EmbedRequest, context: RpcContext
    ) -> search_service_pb2.EmbedResponse:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")


@dataclass(frozen=True, slots=True)
class Rig:
    embedding: FakeEmbedding
    tokens: _Tokens
    target: str

    async def embed(self, *texts: str, timeout_s: float = 60.0) -> Embedded:
        async with open_channel(self.target, [tokens.CONTRACT, clients.RETRIEVAL]) as channel:
            workload = WorkloadTokens(channel, workload="inference", secret="a-secret-of-sixteen")
            return await clients.EmbeddingClient(channel, workload, timeout_s=timeout_s).embed(ADA, texts)


@pytest.fixture(params=[FakeEmbedding])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    issuer, embedding = Issuer(), request.param()
    minting = _Tokens(issuer)
    # `serving` gives the fakes the methods that they lack, which their types do not tell.
    servicers = [
        lambda server: token_service_pb2_grpc.add_TokenServiceServicer_to_server(minting, server),  # type: ignore[arg-type] # see above
        lambda server: search_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(embedding, server),
    ]
    settings = ServerSettings(drain_s=0.1, not_serving_pause_s=0.0)
    async with running(settings, servicers=servicers, verifier=issuer.verifier("retrieval")) as server:
        yield Rig(embedding, minting, f"127.0.0.1:{server.port}")


async def test_questions_are_embedded_on_behalf_of_who_pays(rig: Rig) -> None:
    made = await rig.embed("one", "three")

    assert made == Embedded(vectors=(tuple(vector("one")), tuple(vector("three"))), encoder=ENCODER)
    assert rig.tokens.asked == [("inference", ORGANIZATION, USER)]
    assert [request.kind for request in rig.embedding.requests] == [search_service_pb2.EMBEDDING_KIND_QUESTION]


async def test_long_text_is_cut_to_what_retrieval_takes(rig: Rig) -> None:
    await rig.embed("x" * 8_001)

    assert [len(text) for request in rig.embedding.requests for text in request.texts] == [8_000]


@pytest.mark.parametrize(
    ("said", "understood"),
    [(Overloaded("busy"), RetrievalUnavailable), (invalid_field("texts", "must be 1 to 256"), InvalidArgument)],
)
async def test_refusal_says_whether_anybody_can_tell_later(
    rig: Rig, said: MeshError, understood: type[MeshError]
) -> None:
    rig.embedding.failure = said

    with pytest.raises(understood):
        await rig.embed("one")


@pytest.mark.parametrize("rig", [_Mute], indirect=True)
async def test_silence_is_given_up(rig: Rig) -> None:
    with pytest.raises(RetrievalUnavailable):
        await rig.embed("one", timeout_s=0.2)


async def test_retrieval_that_is_not_there_is_unavailable() -> None:
    issuer = Issuer()
    with pytest.raises(RetrievalUnavailable):
        await Rig(FakeEmbedding(), _Tokens(issuer), "127.0.0.1:1").embed("one")


def test_address_without_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="PARLEY_WORKLOAD_SECRET"):
        EmbeddingSettings(auth_target="127.0.0.1:1", retrieval_target="127.0.0.1:2")
    secret = SecretStr("a-secret-of-sixteen")
    given = EmbeddingSettings(auth_target="127.0.0.1:1", retrieval_target="127.0.0.1:2", workload_secret=secret)
    assert given.retrieval_target == "127.0.0.1:2"
    assert EmbeddingSettings(auth_target="127.0.0.1:1").retrieval_target is None
