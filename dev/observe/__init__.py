"""What watches Parley: objectives, alerts and dashboards as code, and a Prometheus beside the local stack."""
