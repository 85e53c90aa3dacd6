//! `cargo bench`: everything is in the library, see [`bench::main`].

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::main()
}
