//! Executes a command in a running container: `exec PID COMMAND…`, with docker's default rights and filter, in the
//! cgroups of the container with the ID `PLIMSOLL_ID`. `PLIMSOLL_REPEAT=N` does so N times and prints medians.

use std::error::Error;
use std::time::Instant;

use container_core::cgroup::Cgroup;
use container_core::{Exec, Init, Stdio, default_spec, exec};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let pid = args.next().ok_or("usage: exec PID COMMAND…")?.parse()?;
    let args: Vec<String> = args.collect();
    let repeat = match std::env::var("PLIMSOLL_REPEAT") {
        Ok(text) => text.parse()?,
        Err(_) => 1,
    };
    let mut times = Vec::new();
    let mut code = 0;
    for _ in 0..repeat {
        let started = Instant::now();
        let elapsed = || started.elapsed().as_secs_f64() * 1e3;
        let spec = default_spec(args.clone());
        let init = Init::find(pid)?.ok_or("there is no such process")?;
        let cgroup = match std::env::var("PLIMSOLL_ID") {
            Ok(id) => Cgroup::open_by_id(&id)?,
            Err(_) => None,
        };
        let prepared = elapsed();
        let mut process = exec(Exec {
            init: &init,
            process: spec.process().as_ref().ok_or("no process")?,
            seccomp: spec
                .linux()
                .as_ref()
                .and_then(|linux| linux.seccomp().as_ref()),
            cgroup: cgroup.as_ref(),
            stdio: Stdio::Inherit { stdin: false },
            tied: true,
            preserve_fds: 0,
        })?;
        let executed = elapsed();
        code = process.wait()?.code();
        times.push([prepared, executed, elapsed()]);
    }
    if repeat > 1 {
        for (index, name) in ["prepared", "executed", "ended"].into_iter().enumerate() {
            let mut list: Vec<f64> = times.iter().map(|times| times[index]).collect();
            list.sort_by(f64::total_cmp);
            println!("{name:10} p50 {:7.3} ms", list[list.len() / 2]);
        }
    }
    std::process::exit(code)
}
