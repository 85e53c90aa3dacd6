//! The fixed pieces of work that Plimsoll measures: one small static program, `/bin/workload` in images, run as the
//! same file by every arm.
//!
//! Invariant: nothing here chooses an instruction set at run time. Every arm executes the same baseline x86-64 code,
//! because a substrate that does not keep AVX state across guest context switches would corrupt anything else
//! silently (see [`mem`]).

mod args;
mod clock;
mod mem;
mod serve;
mod sha256;
mod work;

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: workload serve                  answer requests from standard input
       workload once NAME ITERATIONS [KEY=VALUE…]   one request from the command line
       workload list                   the names of all work
       workload fill PATH BYTES        write a file that `read` can check
       workload echo PORT [until-eof]  answer `rr`, `stream` and datagrams on a port, for ever or until the input ends
       workload hello | true | spin | idle";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments
        .iter()
        .map(|word| std::str::from_utf8(word.as_bytes()).unwrap_or("\u{fffd}"))
        .collect();
    match words.as_slice() {
        // The child of `forkexec`: it must do nothing at all.
        ["true"] => ExitCode::SUCCESS,
        ["hello"] => hello(),
        ["serve"] => report(serve::serve(
            &mut std::io::stdin().lock(),
            &mut std::io::stdout().lock(),
        )),
        ["once", request @ ..] => {
            let mut state = work::State::default();
            println!("{}", serve::answer(&mut state, &request.join(" ")));
            ExitCode::SUCCESS
        }
        ["list"] => {
            for name in work::NAMES {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        ["fill", _, bytes] => match bytes.parse() {
            Ok(bytes) => report(work::file::fill(Path::new(&arguments[1]), bytes)),
            Err(_) => report(Err(format!("{bytes:?} is not a number of bytes"))),
        },
        ["echo", port, rest @ ..] if matches!(rest, [] | ["until-eof"]) => match port.parse() {
            Ok(port) => report(work::net::serve(port, !rest.is_empty())),
            Err(_) => report(Err(format!("{port:?} is not a port"))),
        },
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        ["idle"] => idle(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// One line of output: what a start is timed with.
fn hello() -> ExitCode {
    let mut out = std::io::stdout();
    match out.write_all(b"hi\n").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints `ready` and sleeps until a signal ends the process: an instance that does nothing.
fn idle() -> ExitCode {
    println!("ready");
    loop {
        // SAFETY: pause takes no arguments and touches no memory of ours.
        unsafe { libc::pause() };
    }
}

fn report(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("workload: {message}");
            ExitCode::FAILURE
        }
    }
}
