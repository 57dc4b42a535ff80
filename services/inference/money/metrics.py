"""What operators see of money; labels are closed sets, so no organization and no user is in them."""

from typing import Final

from services.inference.money.model import ALERT_PERCENTS, Period
from services.mesh.telemetry import counter, gauge

RESERVATIONS: Final = counter(
    "parley_inference_reservations",
    "Attempts before their call: free, held, refused_cost, refused_rate, refused_price.",
    ["outcome"],
)
LINES: Final = counter("parley_inference_ledger_lines", "Calls that were settled in the ledger.", ["purpose"])
LOST: Final = counter("parley_inference_ledger_lines_lost", "Lines that could not be kept; each is in the log.")
PENDING: Final = gauge("parley_inference_ledger_pending_count", "Lines of this process that are not yet stored.")
LAPSED: Final = counter(
    "parley_inference_reservations_lapsed", "Reservations that nobody settled in time, counted as spent in full."
)
ALERTS: Final = counter(
    "parley_inference_budget_alerts", "Budgets that reached a share of their limit.", ["period", "percent"]
)
for _period in Period:
    for _percent in ALERT_PERCENTS:
        ALERTS.labels(_period.value, str(_percent))  # from zero, so that the first one is an increase
