# The two commands that a fresh machine needs are `make demo` and `make test`; `make check` is the short one for in between.
PG_CONFIG ?= pg_config

.PHONY: demo check test install package bench
demo: ## a day in a small shop, captured from the WAL and told from the log
	@scripts/demo

check: ## sources, format, lints, unit tests, tests inside a server of PostgreSQL 15: a few minutes
	@scripts/check

test: ## everything: all of it on PostgreSQL 15 and 18, the core of it on 16 and 17
	@scripts/test

install: ## into the server that PG_CONFIG belongs to
	@scripts/install $(PG_CONFIG)

package: ## Debian packages for PostgreSQL 15 to 18, the relay and the keeper, and the sources for PGXN, in target/packages
	@scripts/package

bench: ## one table of ratios: ingest, capture, projections and the relay beside what else does it (QUICK=1: three minutes)
	@scripts/bench
