"""What operators see of prompts; labels are closed sets, so no organization and no prompt is in them."""

from typing import Final

from services.mesh.telemetry import counter

SELECTIONS: Final = counter(
    "parley_inference_prompt_selections",
    "Examples chosen for a question: fixed, nearest, or unranked when nothing could be embedded.",
    ["outcome"],
)
