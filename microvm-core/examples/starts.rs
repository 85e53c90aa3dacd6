//! Measures the monitor's part of a start: from the call that starts a machine to its first instruction.
//!
//! ```text
//! starts --kernel vmlinux --initramfs initramfs.cpio [--disk FILE]… [--writable FILE] [--cpus N] [--memory MIB]
//!        [--starts N]
//! ```
//!
//! Each machine is ended at once. Shown are the minimum, the median and the nineteenth twentieth, in milliseconds.

use std::fs::File;
use std::process::ExitCode;

use microvm_core::{Accelerator, VmConfig, launch, monotonic_now};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("starts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let console = File::options().write(true).open("/dev/null")?;
    let mut config = VmConfig::new("".into(), "".into(), console);
    let mut starts = 200;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--kernel" => config.kernel = value.into(),
            "--initramfs" => config.initramfs = value.into(),
            "--disk" => config.image_disk.push(value.into()),
            "--writable" => config.writable_disk = Some(value.into()),
            "--cpus" => config.vcpus = value.parse()?,
            "--memory" => config.memory_mib = value.parse()?,
            "--starts" => starts = value.parse()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    let mut times: Vec<Vec<f64>> = Vec::new();
    for _ in 0..starts {
        let begun = monotonic_now();
        let vm = launch(Accelerator::Kvm, &config)?;
        times.resize(vm.stages().len(), Vec::new());
        for (stage, times) in vm.stages().iter().zip(&mut times) {
            times.push(stage.at.saturating_sub(begun) as f64 / 1e6);
        }
        drop(vm);
    }
    for (name, mut times) in ["vmm-ready", "first-instruction"].iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let at = |part: usize| {
            times
                .get(times.len() * part / 20)
                .copied()
                .unwrap_or(f64::NAN)
        };
        println!("{name}: {:.3} {:.3} {:.3} ms", at(0), at(10), at(19));
    }
    Ok(())
}
