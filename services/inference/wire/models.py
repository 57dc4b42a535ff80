"""Lists models."""

from parley.inference.v1 import model_service_pb2
from services.inference.routing import Listing


def to_model(listing: Listing) -> model_service_pb2.Model:
    """A model as it is listed; what the catalog does not know stays absent."""
    card = listing.card
    if card is None:
        return model_service_pb2.Model(name=listing.name, display_name=listing.name, is_default=listing.is_default)
    return model_service_pb2.Model(
        name=listing.name,
        display_name=card.display_name,
        context_tokens=card.context_tokens,
        output_tokens_max=card.output_tokens_max,
        input_price_micros=card.prices.input_micros,
        cached_input_price_micros=card.prices.cached_input_micros,
        output_price_micros=card.prices.output_micros,
        is_default=listing.is_default,
    )
