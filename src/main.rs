//! The `coupond` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    coupond::cli::main()
}
