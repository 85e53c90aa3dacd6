//! The medians, as a table or as JSON.

use std::fmt;

use engine::Choice;
use reports::results::{Metric, Unit, arm_id};
use serde_json::{Map, Value, json};

use super::results::Record;
use super::{WAYS, Way, command, cpus, memory, server};
use crate::cli::{CompareArguments, Format};
use crate::output;

/// A time with three digits, in the unit that suits it.
struct Time(f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0 / 1e6;
        let text = match milliseconds {
            ms if ms < 10.0 => format!("{ms:.2} ms"),
            ms if ms < 100.0 => format!("{ms:.1} ms"),
            ms if ms < 1000.0 => format!("{ms:.0} ms"),
            ms => format!("{:.2} s", ms / 1e3),
        };
        f.pad(&text)
    }
}

fn cell(metric: &Metric, value: Option<f64>) -> String {
    match (metric.unit, value) {
        (_, None) => "-".to_owned(),
        (Unit::Nanoseconds | Unit::NanosecondsPerOperation, Some(value)) => Time(value).to_string(),
        (Unit::Bytes, Some(value)) => output::size(value as u64),
        (_, Some(value)) if value < 100.0 => format!("{value:.2}"),
        (_, Some(value)) => format!("{value:.0}"),
    }
}

/// The ways that are shown: not the control, which is for the report.
fn shown() -> impl Iterator<Item = Way> {
    WAYS.into_iter()
        .filter(|way| way.arm != arm_id::NATIVE_CONTROL)
}

pub(super) fn print(
    arguments: &CompareArguments,
    choice: &Choice,
    record: &Record,
) -> anyhow::Result<()> {
    if arguments.format == Format::Json {
        return Ok(output::json_lines(
            shown().map(|way| object(way, arguments, choice, record)),
        )?);
    }
    let metrics = &record.results.metrics;
    // What the others are held against native by.
    let judged = match arguments.load {
        None => command::TOTAL,
        Some(_) => server::LOAD,
    };
    let mut header = vec!["WAY".to_owned()];
    for metric in metrics {
        header.push(metric.title.to_uppercase());
        if metric.id == judged {
            header.push("× NATIVE".to_owned());
        }
    }
    let native = record.median(judged, arm_id::NATIVE);
    let rows: Vec<Vec<String>> = shown()
        .map(|way| {
            let mut row = vec![way.arm.to_owned()];
            for metric in metrics {
                let value = record.median(&metric.id, way.arm);
                row.push(cell(metric, value));
                if metric.id == judged {
                    let ratio = value.zip(native).map(|(value, native)| value / native);
                    row.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
                }
            }
            row
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    output::table(&header, &rows)?;
    println!();
    let what = match arguments.load {
        None => "start: to the command's exec; run: from there to the end",
        Some(_) => {
            "ready: to the first connection that the server took; load: how long the load took"
        }
    };
    println!(
        "medians of {} rounds, taking turns; every way has {} CPU and at most {}. {what}",
        arguments.rounds,
        cpus(arguments),
        output::size(memory(arguments)),
    );
    println!("vm by {}", choice.why);
    if !choice.hardware {
        println!(
            "the VM ran on software emulation, not on hardware virtualization: its figures say nothing of VMs in general"
        );
    }
    Ok(())
}

fn object(way: Way, arguments: &CompareArguments, choice: &Choice, record: &Record) -> Value {
    let is_vm = way.backend == "vm";
    let nanoseconds = |metric: &str| {
        record
            .median(metric, way.arm)
            .map(|nanoseconds| nanoseconds as u64)
    };
    let mut object = json!({
        "way": way.arm,
        "accelerator": is_vm.then_some(choice.accelerator),
        "substrate": is_vm.then_some(&choice.substrate),
        "rounds": arguments.rounds,
        "peak_memory_bytes": nanoseconds(command::MEMORY),
    });
    let fields = object.as_object_mut();
    let Some(fields) = fields else { return object };
    if arguments.load.is_none() {
        fields.insert("start_ns".into(), json!(nanoseconds(command::START)));
        fields.insert("run_ns".into(), json!(nanoseconds(command::RUN)));
        fields.insert("total_ns".into(), json!(nanoseconds(command::TOTAL)));
        fields.insert("exit_code".into(), json!(record.agreed_exit_code().ok()));
        return object;
    }
    fields.insert("ready_ns".into(), json!(nanoseconds(server::READY)));
    fields.insert("load_ns".into(), json!(nanoseconds(server::LOAD)));
    let figures: Map<String, Value> = record
        .results
        .metrics
        .iter()
        .filter(|metric| metric.id.starts_with("compare.figure."))
        .map(|metric| {
            let median = record.median(&metric.id, way.arm);
            (metric.title.clone(), json!(median))
        })
        .collect();
    fields.insert("figures".into(), Value::Object(figures));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_in_the_unit_that_suits_them() {
        for (nanoseconds, text) in [
            (2_345_678.0, "2.35 ms"),
            (23_456_789.0, "23.5 ms"),
            (234_567_890.0, "235 ms"),
            (2_345_678_901.0, "2.35 s"),
        ] {
            assert_eq!(Time(nanoseconds).to_string(), text);
        }
    }
}
