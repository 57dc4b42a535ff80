"""The gRPC face of inference: one servicer per service of the contracts. They translate and decide nothing."""

from services.inference.servicers.batches import BatchServicer
from services.inference.servicers.generation import CacheServicer, GenerationServicer, ModelServicer, ProviderServicer
from services.inference.servicers.money import BudgetServicer, UsageServicer
from services.inference.servicers.prompts import PromptServicer

__all__ = [
    "BatchServicer",
    "BudgetServicer",
    "CacheServicer",
    "GenerationServicer",
    "ModelServicer",
    "PromptServicer",
    "ProviderServicer",
    "UsageServicer",
]
