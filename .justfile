# The same steps that CI runs: .ci/run holds them, so they work without just too. `just` lists the recipes.

_list:
    @just --list --unsorted

# Every check that a change has to pass, in the order of CI
check:
    .ci/run

# Formatting
fmt:
    .ci/run fmt

# Lints of the compiler and of clippy
lint:
    .ci/run lint

# The documentation builds, and its links resolve
doc:
    .ci/run doc

# Spelling (needs typos)
typos:
    .ci/run typos

# Image, compose file, Helm chart, systemd unit (needs hadolint, check-jsonschema, helm, kubernetes-validate)
packages:
    .ci/run packages

# Licences, sources and bans of dependencies (needs cargo-deny)
deny:
    .ci/run deny

# Known vulnerabilities of dependencies (needs cargo-deny and GitHub)
advisories:
    .ci/run advisories

# A build with the minimum Rust version
msrv:
    .ci/run msrv

# All tests, with a real Kafka and a real CQL database
test:
    .ci/run test

# Every planted bug applies, and simulated worlds find one of them
bugs:
    .ci/run bugs

# The long proofs, or the parts named: `just night worlds twice`
night *parts:
    .ci/night {{ parts }}

# Format the code, and let clippy correct what it can
fix:
    cargo clippy --locked --all-targets --fix --allow-dirty --allow-staged
    cargo fmt
