# The two commands that a fresh machine needs are `make demo` and `make test`.
PG_CONFIG ?= pg_config

.PHONY: demo test install bench
demo: ## a day in a small shop, captured from the WAL and told from the log
	@scripts/demo

test: ## everything, on PostgreSQL 15 and 18
	@scripts/test

install: ## into the server that PG_CONFIG belongs to
	@scripts/install $(PG_CONFIG)

bench: ## one table of ratios: ingest, capture, projections and the relay beside what else does it (QUICK=1: three minutes)
	@scripts/bench
