"""The fault suite: real processes under load while a seeded nemesis breaks them, then a checker over what was promised.

    make chaos                      three seeds, five minutes
    make chaos SEED=7 MINUTES=60    replay one schedule, for as long as wanted
    make chaos-mutants              break the product on purpose; every break has to be noticed

Nothing here is collected by pytest: a run takes minutes. The parts that decide (schedule, proxy, history, checker,
mutants) have their own unit tests in tests/unit/chaos.
"""
