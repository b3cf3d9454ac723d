# TLog: run · test · lint · fuzz · bench · demo. Each does its own set-up on a fresh Debian that has Rust, gcc, make
# and python. There is one profile, release, so that RocksDB is compiled once for all of them.

LISTEN ?= 127.0.0.1:7256
DATA   ?= ./data
TLOG   := target/release/tlog

.DEFAULT_GOAL := help
.PHONY: help setup build run test lint bench demo demo-queue demo-lock

help:
	@echo "make run     build, and serve on $(LISTEN) from $(DATA)"
	@echo "make demo    publish, follow, rebuild and read this machine's own package database"
	@echo "make demo-queue   workers that share jobs: one is killed, one job can't be done"
	@echo "make demo-lock    three clients hold one lock in turn; the broker is killed meanwhile"
	@echo "make test    every test"
	@echo "make lint    format, clippy, docs"
	@echo "make fuzz    one fuzz target: TARGET=frame TIME=60"
	@echo "make bench   TLog beside what this machine can do, and beside its peers (15 minutes)"
	@echo "make bench-full    the same, in all sizes: writes benches/RESULTS.md (an hour and more)"
	@echo "make bench-peers   install the peers: Debian packages, cargo install"
	@echo "make bench-parts   what the broker is made of: frames, appends, stores, memory of namespaces"

# What RocksDB's build needs beyond gcc: a C++ compiler, and libclang for its bindings.
setup:
	@./.ci/packages g++ libclang-dev

build: setup
	cargo build --release --package broker

run: build
	@echo
	@echo "The first calls to try, in another terminal:"
	@echo
	@echo "  curl -X PUT http://$(LISTEN)/v1/namespaces/orders"
	@echo "  curl http://$(LISTEN)/v1/namespaces/orders/records --json '{\"key\":\"o-17\",\"value\":{\"item\":\"tea\"}}'"
	@echo "  curl 'http://$(LISTEN)/v1/namespaces/orders/records?from=0'"
	@echo "  curl -N 'http://$(LISTEN)/v1/namespaces/orders/events?from=start'"
	@echo "  curl http://$(LISTEN)/v1/namespaces/orders/keys/o-17"
	@echo "  $(TLOG) rebuild orders --out orders.tlog --url http://$(LISTEN)"
	@echo
	@$(TLOG) serve --data $(DATA) --listen $(LISTEN)

# strace lets tests see that an ack follows its fdatasync, and kill the broker at a system call; libfaketime
# lets them move its clock.
test: setup
	@./.ci/packages strace libfaketime
	cargo test --release --workspace

lint: setup
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

# SCENARIOS is a regular expression: make bench SCENARIOS='publish|group'. strace shows whose acks wait for a sync.
SCENARIOS ?=
COMPARE := python3 benches/compare.py --only '$(SCENARIOS)'
.PHONY: bench-full bench-peers bench-parts bench-build
bench-build: build
	@./.ci/packages strace
	cargo build --release --package benches --bin load

bench: bench-build
	$(COMPARE)

bench-full: bench-build
	$(COMPARE) --full --write

# Those that are not there are skipped by the comparison, by name.
bench-peers: setup
	@./.ci/packages nats-server redis-server nginx-light libnginx-mod-nchan
	cargo install durable-streams --root target/peers --version 0.1.5
	cargo install s2-cli --root target/peers --version 0.43.4 --locked

bench-parts: build
	cargo bench --profile release --package benches
	cargo test --release --package broker --test many_namespaces -- --nocapture

demo: build
	python3 demo/demo.py $(TLOG)

demo-queue: build
	python3 demo/queue.py $(TLOG)

demo-lock: build
	python3 demo/lock.py $(TLOG)

# The log and its consumers on a simulated disk: SEEDS new seeds, for as long as they take. The last lines
# say what they amount to, and which faults there were.
SEEDS ?= 1000
.PHONY: simulate
simulate: setup
	TLOG_SIM_SEEDS=$(SEEDS) cargo test --release --package simulation every_promise -- --nocapture

# One of the fuzz targets in fuzz/src for TIME seconds, on stable Rust: nothing here is unsafe, so no sanitizer
# is needed. RocksDB is the one that the ordinary build has compiled. What is found is in target/fuzz.
TARGET ?= frame
TIME   ?= 60
.PHONY: fuzz
fuzz: build
	@cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked --version 0.13.2
	@mkdir -p target/fuzz/$(TARGET)
	ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR="$$(dirname "$$(ls -t $(CURDIR)/target/release/build/librocksdb-sys-*/out/librocksdb.a | head -1)")" \
	cargo fuzz run --fuzz-dir fuzz --sanitizer none --features libfuzzer $(TARGET) target/fuzz/$(TARGET) fuzz/corpus/$(TARGET) -- \
		-max_total_time=$(TIME) -timeout=20 -rss_limit_mb=1024 -max_len=4096 -artifact_prefix=target/fuzz/$(TARGET)-
