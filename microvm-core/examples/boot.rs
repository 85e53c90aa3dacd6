//! Boots a machine by hand and shows what happens: stages, the first bytes on the control channel, and how it ended.
//!
//! ```text
//! boot --kernel vmlinux --initramfs initramfs.cpio [--accel kvm|tcg|qemu-kvm] [--disk FILE]… [--writable FILE]
//!      [--cpus N] [--memory MIB] [--append WORDS] [--console FILE] [--seconds N]
//! ```

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use microvm_core::{Request, VmConfig, choose, launch, monotonic_now};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let console: OwnedFd = std::io::stdout().as_fd().try_clone_to_owned()?;
    let mut config = VmConfig::new("".into(), "".into(), File::from(console));
    let mut request = Request::Auto;
    let mut limit = Duration::from_secs(120);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--kernel" => config.kernel = value.into(),
            "--initramfs" => config.initramfs = value.into(),
            "--accel" => request = value.parse()?,
            "--disk" => config.image_disk.push(value.into()),
            "--writable" => config.writable_disk = Some(value.into()),
            "--cpus" => config.vcpus = value.parse()?,
            "--memory" => config.memory_mib = value.parse()?,
            "--append" => config.extra_cmdline = value,
            "--console" => config.console = File::create(value)?,
            "--seconds" => limit = Duration::from_secs(value.parse()?),
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    let (accelerator, why) = choose(request)?;
    eprintln!("boot: {why}");
    let start = monotonic_now();
    let since = move |at: u64| at.saturating_sub(start) as f64 / 1e6;
    let mut vm = launch(accelerator, &config)?;
    eprintln!(
        "boot: launched in {:.3} ms, process {}",
        since(monotonic_now()),
        vm.pid()
    );
    for stage in vm.stages() {
        eprintln!("boot: {} after {:.3} ms", stage.name, since(stage.at));
    }
    let mut control = vm.control().try_clone()?;
    let listener = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(got) = control.read(&mut bytes) {
            if got == 0 {
                break;
            }
            let text = bytes[..got.min(200)].escape_ascii();
            eprintln!(
                "boot: {got} bytes on the control channel after {:.1} ms: {text}",
                since(monotonic_now())
            );
        }
    });
    match vm.wait_for(Some(limit))? {
        Some(end) => eprintln!("boot: {end} after {:.1} ms", since(monotonic_now())),
        None => {
            eprintln!("boot: still running after {} s: stopped", limit.as_secs());
            vm.stop()?;
            eprintln!("boot: {}", vm.wait()?);
        }
    }
    let _ = listener.join();
    Ok(())
}
