//! Writes a synthetic result file, to look at the report without measuring:
//! `cargo run -p reports --example synthetic -- [emulated|hardware|none] OUT.json`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use support::{Machines, Shape, results};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [machines, out] = arguments.as_slice() else {
        eprintln!("usage: synthetic emulated|hardware|none OUT.json");
        return ExitCode::FAILURE;
    };
    let machines = match machines.as_str() {
        "emulated" => Machines::Emulated,
        "hardware" => Machines::Hardware,
        "none" => Machines::None,
        other => {
            eprintln!("{other} is none of emulated, hardware and none");
            return ExitCode::FAILURE;
        }
    };
    let run = results(&Shape {
        machines,
        noise: 0.012,
        vm_on: vec![
            ("memory.fault", 1.6),
            ("file.layer.read-rand", 1.9),
            ("file.layer.fsync", 1.3),
            ("kernel.getpid", 0.99),
            ("kernel.fork-exec", 1.4),
        ],
        container_on: vec![("kernel.getpid", 1.33), ("kernel.pipe", 1.06)],
        furnished: true,
        ..Shape::default()
    });
    match run.write(&PathBuf::from(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
