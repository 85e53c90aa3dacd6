//! The resident workload: one request a line in, one answer a line out.
//!
//! A request is `NAME ITERATIONS [KEY=VALUE…]`; its answer is `ok ELAPSED_NS CHECKSUM RECEIVED_NS ANSWERED_NS` or
//! `error TEXT`. ELAPSED_NS is the time of the measured sections alone, RECEIVED_NS and ANSWERED_NS are when the request
//! had been read and the answer was about to be written, all by CLOCK_MONOTONIC inside the instance: the harness, which
//! knows when it sent the one and received the other, checks the instance's clock against its own by them. CHECKSUM (16 hexadecimal digits) depends on the
//! work and its arguments but not on ITERATIONS, so the answers of all arms can be compared. `show 1 path=P` is no work:
//! it answers `text …` with the file's content, or that of a directory's files, line ends written as `\\n`.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use crate::args::Args;
use crate::clock::{self, Stopwatch};
use crate::work::{self, State};

/// Far above any request; what is longer is refused, so that a stream of garbage cannot fill the memory.
const LONGEST_REQUEST: u64 = 4096;

/// Answers requests until the input ends.
pub(crate) fn serve(input: &mut impl BufRead, output: &mut impl Write) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write an answer: {error}");
    writeln!(output, "ready")
        .and_then(|()| output.flush())
        .map_err(failed)?;
    let mut state = State::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input
            .by_ref()
            .take(LONGEST_REQUEST)
            .read_until(b'\n', &mut line);
        if read.map_err(|error| format!("cannot read a request: {error}"))? == 0 {
            return Ok(());
        }
        let received = clock::now();
        if line.last() != Some(&b'\n') && line.len() as u64 == LONGEST_REQUEST {
            return Err(format!("a request is longer than {LONGEST_REQUEST} bytes"));
        }
        let request = String::from_utf8_lossy(&line);
        let mut answer = answer(&mut state, request.trim());
        if answer.starts_with("ok ") {
            answer.push_str(&format!(" {received} {}", clock::now()));
        }
        answer.push('\n');
        output
            .write_all(answer.as_bytes())
            .and_then(|()| output.flush())
            .map_err(failed)?;
    }
}

/// Does one piece of work; the answer lacks the times of the exchange and the newline.
pub(crate) fn answer(state: &mut State, request: &str) -> String {
    if let Some(path) = request.strip_prefix("show 1 path=") {
        return match show(Path::new(path)) {
            Ok(text) => format!("text {}", text.escape_default()),
            Err(error) => format!("error {path}: {error}"),
        };
    }
    match work_on(state, request) {
        Ok((elapsed, checksum)) => format!("ok {elapsed} {checksum:016x}"),
        Err(message) => format!("error {}", message.replace('\n', " ")),
    }
}

/// A file's text, or `name: text` for each file of a directory: what the kernel says about itself in here.
fn show(path: &Path) -> std::io::Result<String> {
    const LONGEST_TEXT: u64 = 8192;
    if !path.is_dir() {
        let mut text = Vec::new();
        std::fs::File::open(path)?
            .take(LONGEST_TEXT)
            .read_to_end(&mut text)?;
        return Ok(String::from_utf8_lossy(&text).trim_end().to_owned());
    }
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(path)?.take(64) {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            lines.push(format!(
                "{}: {}",
                entry.file_name().to_string_lossy(),
                show(&entry.path())?
            ));
        }
    }
    lines.sort();
    Ok(lines.join("\n"))
}

fn work_on(state: &mut State, request: &str) -> Result<(u128, u64), String> {
    let mut words = request.split_ascii_whitespace();
    let name = words.next().ok_or("an empty request")?;
    let iterations = words
        .next()
        .ok_or_else(|| format!("{name}: the number of iterations is missing"))?;
    let iterations: u64 = iterations
        .parse()
        .map_err(|_| format!("{name}: {iterations:?} is not a number of iterations"))?;
    let mut args = Args::parse(words)?;
    let slowdown = match args.text("slow") {
        Some(text) => text.to_owned(),
        None => std::env::var("PLIMSOLL_SLOWDOWN").unwrap_or_default(),
    };
    let slowdown = match slowdown.as_str() {
        "" => 0.0,
        text => match text.trim_end_matches('%').parse::<f64>() {
            Ok(percent) if (0.0..=1000.0).contains(&percent) => percent,
            _ => return Err(format!("slow={text} is not a percentage from 0 to 1000")),
        },
    };
    let mut watch = Stopwatch::new(slowdown);
    let checksum = work::run(name, iterations, &mut args, state, &mut watch)?;
    Ok((watch.elapsed().as_nanos(), checksum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(input: &str) -> Vec<String> {
        let mut output = Vec::new();
        serve(&mut input.as_bytes(), &mut output).unwrap();
        String::from_utf8(output)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn ready_comes_first_and_every_request_gets_one_line() {
        let lines = talk("ping 1\nsha256 2\nnonsense 1\n");
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "ready");
        assert!(lines[1].starts_with("ok ") && lines[2].starts_with("ok "));
        assert!(lines[3].starts_with("error "));
    }

    #[test]
    fn an_answer_holds_elapsed_checksum_and_when_it_was_received_and_answered() {
        let lines = talk("sha256 3\n");
        let words: Vec<&str> = lines[1].split(' ').collect();
        let number = |word: usize| words[word].parse::<u64>().unwrap();
        assert_eq!((words.len(), words[2].len()), (5, 16));
        assert!(number(1) > 0 && number(1) <= number(4) - number(3));
    }

    #[test]
    fn bad_requests_are_answered_and_do_not_end_the_session() {
        for bad in [
            "",
            "sha256",
            "sha256 x",
            "sha256 1 size",
            "sha256 1 nope=1",
            "sha256 1 slow=fast",
            "sha256 1 threads=0",
        ] {
            let lines = talk(&format!("{bad}\nping 1\n"));
            assert!(lines[1].starts_with("error "), "{bad:?}: {}", lines[1]);
            assert!(lines[2].starts_with("ok "), "{bad:?}");
        }
    }

    #[test]
    fn files_are_shown_on_one_line() {
        let lines = talk("show 1 path=/proc/self/limits\nshow 1 path=/nowhere\n");
        assert!(
            lines[1].starts_with("text ") && lines[1].contains("\\n"),
            "{}",
            lines[1]
        );
        assert!(lines[2].starts_with("error /nowhere"), "{}", lines[2]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let garbage = vec![b'x'; 10_000];
        let mut output = Vec::new();
        assert!(serve(&mut garbage.as_slice(), &mut output).is_err());
    }
}
