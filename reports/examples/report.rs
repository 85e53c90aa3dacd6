//! Makes a report without the command: `cargo run -p reports --example report -- RESULTS.json DIR`.

use std::path::Path;
use std::process::ExitCode;

use reports::{Results, write_report};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, dir] = arguments.as_slice() else {
        eprintln!("usage: report RESULTS.json DIR");
        return ExitCode::FAILURE;
    };
    let made =
        Results::read(Path::new(file)).and_then(|results| write_report(&results, Path::new(dir)));
    match made {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
