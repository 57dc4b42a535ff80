# The command surface. A target that people call carries a `##` caption; `##@` opens a group in `make help`.
# Nothing but make and Python 3.11 is needed, except where a target says so.

# The first Python that is new enough; where none is, set-up says so.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$each" -c '$(NEW_ENOUGH)' 2>/dev/null && echo "$$each" && break; done),python3)
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Paths are relative, so that a clone may lie below a folder with spaces in its name.
RUN := .venv-run/bin/python
DEV := .venv/bin/python
# A set of questions with the passages that answer them; too large for the repository.
DATA ?= ../shared/data/squad2-wiki

##@ Use

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: setup-run setup-dev ## Install both environments, without starting anything

.PHONY: setup-run
setup-run: ## Install what `make run` needs (.venv-run, no torch)
	@$(PYTHON) dev/tools/environment.py run

.PHONY: setup-dev
setup-dev: ## Install everything, for tests and checks (.venv)
	@$(PYTHON) dev/tools/environment.py dev

.PHONY: run
run: setup-run ## Start PostgreSQL, Valkey and every service; Ctrl-C stops them
	@exec $(RUN) -m dev up

.PHONY: demo
demo: setup-run ## Ask the running stack about this project's own documentation
	@exec $(RUN) -m dev demo

.PHONY: kafka
kafka: setup-run ## Start Apache Kafka for `PARLEY_QUEUE=kafka make run` (needs java 17 and maven)
	@exec $(RUN) -m dev kafka

.PHONY: observe
observe: setup-dev ## Start Prometheus beside the running stack (needs prometheus); Ctrl-C stops it alone
	@exec $(DEV) -m dev.observe run

.PHONY: archive
archive: setup-run ## Keep the log of the running stack's database, as backups need; Ctrl-C stops it alone
	@exec $(RUN) -m dev archive

.PHONY: backup
backup: setup-run ## Copy the running stack's database, while `make archive` runs
	@$(RUN) -m dev backup

.PHONY: restore
restore: setup-run ## Make the folder INTO with the stack as it was at TO=2026-11-23T05:00:00Z
	@$(RUN) -m dev restore $(if $(TO),--to "$(TO)") --into "$(INTO)"

##@ Test

.PHONY: test
test: setup-dev ## Run the tests; ARGS="tests/unit -k turn" narrows them
	@$(DEV) -m pytest $(ARGS)

.PHONY: test-sharded
test-sharded: setup-dev ## Run the end-to-end tests on two PostgreSQL servers that share the organizations, with a replica of each
	@PARLEY_TEST_SHARDS=2 PARLEY_TEST_DATABASE_REPLICAS=1 $(DEV) -m pytest $(or $(ARGS),tests/e2e)

.PHONY: test-moves
test-moves: setup-dev ## Move shards between two PostgreSQL servers under load, and lose nothing; RATE=20 ROUNDS=2
	@$(DEV) -m tests.sharding $(if $(RATE),--rate $(RATE)) $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: test-deploy
test-deploy: deploy-tools ## Hold the chart to Helm, a Kubernetes control plane, and real processes run as it renders them (needs Go for most)
	@PARLEY_TEST_DEPLOY=1 $(DEV) -m pytest $(or $(ARGS),tests/deploy)

.PHONY: deploy-tools
deploy-tools: setup-dev ## Build what test-deploy needs into .build/deploy: Helm, kubeconform, Kubernetes (needs Go)
	@$(DEV) -m dev.tools.deploy

.PHONY: test-scale
test-scale: setup-dev ## Judge the plans of every store's statements among a million messages; MESSAGES=… for another number
	@PARLEY_TEST_MESSAGES=$(or $(MESSAGES),1000000) $(DEV) -m pytest --timeout=600 $(or $(ARGS),tests/scale)

.PHONY: test-previous
test-previous: setup-dev ## Run the stores of the release before on this release's schema (needs git's history)
	@$(DEV) -m dev.tools.previous $(ARGS)

.PHONY: chaos
chaos: setup-dev ## Break real processes under load and hold every promise; SEED=… MINUTES=… RATE=… QUEUE=kafka
	@$(DEV) -m tests.chaos run $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
	$(if $(RATE),--rate $(RATE)) $(if $(QUEUE),--queue $(QUEUE)) $(ARGS)

.PHONY: chaos-mutants
chaos-mutants: setup-dev ## Break the product on purpose: each break has to be noticed within three seeds
	@$(DEV) -m tests.chaos mutants $(ARGS)

.PHONY: storm
storm: setup-dev ## Break the network under calls in tunnels, and hold what each of them sees against what it may; SEED=… MINUTES=…
	@$(DEV) -m tests.storm $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

.PHONY: simulate
simulate: setup-dev ## Simulate turns under faults on a virtual clock; SEED=7 replays one, SEEDS=10000, ARGS=--mutants
	@$(DEV) -m tests.simulation $(if $(SEED),--seed $(SEED)) --seeds $(or $(SEEDS),10000) $(ARGS)

.PHONY: eval-retrieval
eval-retrieval: setup-run ## Measure search with the shipped encoder and fusion; DATA=folder of the labelled set
	@$(RUN) -m services.retrieval.evaluation --data "$(DATA)" $(ARGS)

.PHONY: bench-embedding
bench-embedding: setup-run ## Encoder calls and processor time per text of 1, 8 and 64 callers, merged and each alone
	@$(RUN) -m services.retrieval.evaluation.merging $(ARGS)

.PHONY: eval-cache
eval-cache: setup-dev ## Measure how often the cache takes two questions for one, by threshold; DATA=folder of the labelled set
	@$(DEV) -m tests.meanings --data "$(DATA)" $(ARGS)

.PHONY: bench-faults
bench-faults: setup-dev ## Every fault of a provider beside a healthy one: outcome, gap that a reader sees, upstream calls
	@$(DEV) -m tests.faults $(ARGS)

.PHONY: bench-gateway
bench-gateway: setup-dev ## CPU per request and per token of a stateless call, beside a bare pass-through; AGAINST=revision
	@$(DEV) -m tests.load $(if $(AGAINST),--against $(AGAINST)) $(ARGS)

.PHONY: bench-transport
bench-transport: setup-dev ## CPU of calls and messages between two processes, in a tunnel and by plain gRPC, in one run
	@$(DEV) -m tests.load.transport $(ARGS)

.PHONY: capacity
capacity: setup-dev ## Measure what docs/capacity.md computes from: a search, a million stored messages, a turn
	@$(DEV) -m tests.capacity $(ARGS)

.PHONY: bench
bench: setup-dev ## CPU per token, turn and stateless request of the whole stack, beside a bare proxy in the same run
	@$(DEV) -m tests.load.whole $(ARGS)

.PHONY: bench-streams
bench-streams: setup-dev ## Hold N=10000 answers of durable turns open at once, each equal to what is stored in the end
	@$(DEV) -m tests.load.streams --streams $(or $(N),10000) $(ARGS)

##@ Check

.PHONY: check
check: check-locks check-tidy check-lint check-types check-imports check-monitoring proto-check ## Everything below, as CI does (needs node)

.PHONY: check-lint
check-lint: setup-dev ## Rules and format of Python: ruff
	@$(DEV) -m ruff check .
	@$(DEV) -m ruff format --check .

.PHONY: check-types
check-types: setup-dev ## Types: mypy, strict, tests included
	@$(DEV) -m mypy

.PHONY: check-imports
check-imports: setup-dev ## Who may import whom: import-linter
	@.venv/bin/lint-imports

.PHONY: check-tidy
check-tidy: setup-dev ## Length of files, and a reason beside each exception
	@$(DEV) -m dev.tools.tidiness

.PHONY: check-locks
check-locks: setup-dev ## Locks are made from this pyproject.toml
	@$(DEV) -m dev.tools.locks --check

.PHONY: check-monitoring
check-monitoring: setup-dev ## Alerts and dashboards are what slo.toml and dev/observe say
	@$(DEV) -m dev.observe write --check

.PHONY: proto-check
proto-check: setup-dev node_modules/.package-lock.json ## Contracts and what is made of them: buf lint, format, breaking; stubs, error page, OpenAPI (needs node)
	@$(DEV) -m dev.tools.contracts
	@$(DEV) -m dev.tools.protos --check
	@$(DEV) -m dev.tools.errors_page --check
	@$(DEV) -m edge openapi | diff edge/openapi.json - || { echo "edge/openapi.json is not what proto/ says: run 'make proto' and commit the result"; exit 1; }

##@ Deliver

# Of a release: the image's repository, its digest, the charts' repository; and where it goes.
IMAGE ?= parley
DIGEST ?=
CHARTS ?=
RELEASE ?= parley
NAMESPACE ?= parley
# Who may have signed what is deployed: a pattern of the release workflow's address.
IDENTITY ?=
ROLLOUT = $(PYTHON) -m dev.tools.rollout

.PHONY: package
package: ## Build the wheel into dist/
	@$(PYTHON) -m dev.tools.deployment wheel dist

.PHONY: sbom
sbom: ## Write the bills of materials of both images into dist/ (CycloneDX, from the locks)
	@$(PYTHON) -m dev.tools.release sbom

.PHONY: image
image: ## Build the image for this machine, as IMAGE=parley (needs docker with buildx)
	@$(PYTHON) -m dev.tools.release image --repository "$(IMAGE)"

.PHONY: release-check
release-check: ## Whether TAG, pyproject.toml, changelog and chart say one version
	@$(PYTHON) -m dev.tools.release check --tag "$(TAG)"

.PHONY: image-push
image-push: ## Build both images and push them to IMAGE=registry/owner/name
	@$(PYTHON) -m dev.tools.release image-push --repository "$(IMAGE)"

.PHONY: image-sign
image-sign: ## Sign what image-push pushed, and its bills of materials (needs cosign)
	@$(PYTHON) -m dev.tools.release image-sign --repository "$(IMAGE)"

.PHONY: image-verify
image-verify: ## Refuse an image DIGEST that the workflow IDENTITY has not signed
	@$(PYTHON) -m dev.tools.release image-verify --repository "$(IMAGE)" --digest "$(DIGEST)" --identity '$(IDENTITY)'

.PHONY: chart-push
chart-push: ## Package, push and sign the chart, to CHARTS=oci://registry/owner/charts (needs helm, cosign)
	@$(PYTHON) -m dev.tools.release chart --repository "$(CHARTS)"

.PHONY: staging
staging: ## Install the version with the image DIGEST on the cluster of KUBECONFIG_CONTENT, or go back
	@$(ROLLOUT) staging --release $(RELEASE) --namespace $(NAMESPACE) --chart $(CHARTS)/parley --repository $(IMAGE) --digest $(DIGEST)

.PHONY: smoke
smoke: ## One question to the installed release, by `helm test`
	@$(ROLLOUT) smoke --release $(RELEASE) --namespace $(NAMESPACE)

.PHONY: canary
canary: ## As staging, for a part of the users first; taken back by itself when PROMETHEUS_URL tells of worse
	@$(ROLLOUT) canary --release $(RELEASE) --namespace $(NAMESPACE) --chart $(CHARTS)/parley --repository $(IMAGE) --digest $(DIGEST) $(ARGS)

.PHONY: canary-abort
canary-abort: ## Send everybody to the present version and remove the canary
	@$(ROLLOUT) canary-abort --release $(RELEASE) --namespace $(NAMESPACE)

##@ Change

.PHONY: proto
proto: setup-dev ## Generate stubs, descriptors, docs/errors.md and edge/openapi.json from proto/
	@$(DEV) -m dev.tools.protos
	@$(DEV) -m dev.tools.errors_page
	@$(DEV) -m edge openapi >edge/openapi.json

.PHONY: settings
settings: setup-dev ## Write docs/settings.md from the settings of every process
	@$(DEV) -m tests.support.settings_page

.PHONY: monitoring
monitoring: setup-dev ## Write alerts and dashboards of the chart from slo.toml and dev/observe
	@$(DEV) -m dev.observe write

.PHONY: chart
chart: setup-dev ## Write what of helm/parley follows from the product, and the renders that its tests compare
	@$(DEV) -m tests.deploy

.PHONY: fmt
fmt: setup-dev ## Format Python, and proto/ where node is there
	@$(DEV) -m ruff format .
	@$(DEV) -m ruff check --fix --quiet .
	@if command -v npm >/dev/null; then $(MAKE) node_modules/.package-lock.json && $(DEV) -m dev.tools.contracts --fix; \
	else echo "fmt: proto/ is left as it is, buf needs node"; fi

.PHONY: lock
lock: ## Compile requirements/*.lock from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(PYTHON) -m dev.tools.locks $(ARGS)

.PHONY: clean
clean: ## Remove environments, caches and builds; keep .dev, the data of the local stack
	rm -rf .venv .venv-run .state .build node_modules dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -path ./.dev -prune -o -type d -name __pycache__ -exec rm -rf {} +

node_modules/.package-lock.json: package.json package-lock.json
	@command -v npm >/dev/null || { echo "This target needs node with npm, for buf: https://nodejs.org. Nothing else of 'make check' does."; exit 1; }
	@npm ci --loglevel=error --ignore-scripts --no-audit --no-fund
	@touch $@
