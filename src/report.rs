//! `plimsoll report`.

use crate::cli::ReportArguments;

pub(crate) fn report(arguments: &ReportArguments) -> anyhow::Result<u8> {
    let results = reports::results::Results::read(&arguments.results)?;
    let page = reports::write_report(&results, &arguments.output)?;
    println!("{}", page.display());
    Ok(0)
}
