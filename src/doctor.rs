//! `plimsoll doctor`.

use std::path::Path;

use engine::Home;
use engine::doctor::{Check, State};

use crate::cli::{DoctorArguments, Format};
use crate::output;

pub(crate) fn doctor(root: &Path, arguments: &DoctorArguments) -> anyhow::Result<u8> {
    if arguments.repair {
        let home = Home::open(root)?;
        let settled = engine::repair(&home)?;
        eprintln!("plimsoll: {settled} instances of killed processes settled");
    }
    let checks = engine::doctor::check(root);
    match arguments.format {
        Format::Json => {
            let objects: Vec<serde_json::Value> = checks
                .iter()
                .map(serde_json::to_value)
                .collect::<Result<_, _>>()?;
            output::json_lines(objects)?;
        }
        Format::Table => print(&checks)?,
    }
    Ok(u8::from(
        checks.iter().any(|check| check.state == State::Failure),
    ))
}

fn print(checks: &[Check]) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|check| {
            let state = match check.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Failure => "FAILURE",
            };
            vec![check.name.to_owned(), state.to_owned(), check.found.clone()]
        })
        .collect();
    output::table(&["FACILITY", "STATE", "FOUND"], &rows)?;
    let mendable: Vec<&Check> = checks.iter().filter(|check| check.mend.is_some()).collect();
    if !mendable.is_empty() {
        println!();
    }
    for check in mendable {
        println!(
            "{}: {}",
            check.name,
            check.mend.as_deref().unwrap_or_default()
        );
    }
    Ok(())
}
