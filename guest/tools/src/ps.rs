//! The processes of the PID namespace that /proc shows.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use rustix::fd::AsFd;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, read};

use crate::failure::Failure;
use crate::json::Object;
use crate::output::Output;
use crate::parse;
use crate::upper::names;

/// The unit of the times in /proc/PID/stat on x86-64: USER_HZ, ticks a second.
const TICKS: u64 = 100;

/// The most that is read of a file, in bytes: a command line may be long, and only its start is shown.
const MOST: usize = 64 << 10;

/// What /proc/PID/stat says, as far as it is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: Vec<u8>,
    ppid: u64,
    tty: u64,
    /// Time on a processor, ticks.
    time: u64,
    /// When it was started, ticks after the machine was.
    started: u64,
}

/// Writes a line of JSON for each process but this one: `pid`, `ppid`, `uid`, `user` (its name in /etc/passwd, or the number),
/// `c` (the share of a processor that it has had, per cent), `stime` (its start, seconds since 1970), `tty` (`?` for none),
/// `time` (on a processor, seconds), `cmd`.
pub(crate) fn list(output: &mut Output<'_>) -> Result<(), Failure> {
    let fail = |path: &[u8], error| Failure::at("read", path, error);
    let own = read_file(b"/proc/self/stat").map_err(|error| fail(b"/proc/self/stat", error))?;
    let own = own.split(|byte| *byte == b' ').next().and_then(parse);
    let booted = read_file(b"/proc/stat").map_err(|error| fail(b"/proc/stat", error))?;
    let booted = field(&booted, b"btime ").unwrap_or(0);
    let up = read_file(b"/proc/uptime").map_err(|error| fail(b"/proc/uptime", error))?;
    let up = up.split(|byte| *byte == b'.').next().and_then(parse);
    let users = read_file(b"/etc/passwd").unwrap_or_default();
    let proc = openat(
        CWD,
        "/proc",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| fail(b"/proc", error))?;
    let mut pids: Vec<u64> = names(proc.as_fd())
        .map_err(|error| fail(b"/proc", error))?
        .iter()
        .filter_map(|name| parse(name))
        .collect();
    pids.sort_unstable();
    for pid in pids.into_iter().filter(|pid| Some(*pid) != own) {
        // One that is gone by now is none.
        if let Some(line) = describe(pid, booted, up.unwrap_or(0), &users) {
            output.push(line.as_bytes())?;
        }
    }
    Ok(())
}

fn describe(pid: u64, booted: u64, up: u64, users: &[u8]) -> Option<String> {
    let file = |name: &str| read_file(format!("/proc/{pid}/{name}").as_bytes()).ok();
    let stat = parse_stat(&file("stat")?)?;
    let uid = field(&file("status")?, b"Uid:\t")?;
    let mut command = file("cmdline")?;
    while command.last() == Some(&0) {
        command.pop();
    }
    for byte in &mut command {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    if command.is_empty() {
        // A kernel's thread, or a process that has ended.
        command = [b"[", stat.name.as_slice(), b"]"].concat();
    }
    let lived = up.saturating_sub(stat.started / TICKS);
    let number = format!("{uid}");
    let line = Object::new()
        .number("pid", pid)
        .number("ppid", stat.ppid)
        .number("uid", uid)
        .text("user", user(users, uid).unwrap_or(number.as_bytes()))
        .number("c", stat.time * 100 / TICKS / lived.max(1))
        .number("stime", booted + stat.started / TICKS)
        .text("tty", terminal(stat.tty).as_bytes())
        .number("time", stat.time / TICKS)
        .text("cmd", &command)
        .line();
    Some(line)
}

/// Reads proc(5)'s line: the name stands in parentheses and may hold any character.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&[u8]> = line
        .get(close + 2..)?
        .split(|byte| byte.is_ascii_whitespace())
        .collect();
    // The manual counts from 1, and the state, the first here, is the third there.
    let number = |place: usize| parse(fields.get(place - 3)?);
    Some(Stat {
        name: line.get(open + 1..close)?.to_vec(),
        ppid: number(4)?,
        tty: number(7)?,
        time: number(14)?.saturating_add(number(15)?),
        started: number(22)?,
    })
}

/// The number after a word at a line's start.
fn field(text: &[u8], word: &[u8]) -> Option<u64> {
    let line = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(word))?;
    parse(line.split(|byte| byte.is_ascii_whitespace()).next()?)
}

/// The name of a user, by the text of /etc/passwd.
fn user(users: &[u8], uid: u64) -> Option<&[u8]> {
    users.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        (parse(fields.nth(1)?)? == uid).then_some(name)
    })
}

/// What ps(1) calls a terminal: numbers by Linux's Documentation/admin-guide/devices.txt.
fn terminal(tty: u64) -> String {
    let major = tty >> 8 & 0xfff;
    let minor = (tty & 0xff) | (tty >> 12 & 0xf_ff00);
    match major {
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        5 if minor == 1 => "console".into(),
        229 => format!("hvc{minor}"),
        _ => "?".into(),
    }
}

fn read_file(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = alloc::vec![0; 4096];
    let mut length = 0;
    loop {
        let space = text.get_mut(length..).unwrap_or_default();
        match read(&file, space) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if length == text.len() {
            if length >= MOST {
                break;
            }
            text.resize(length * 2, 0);
        }
    }
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_name_with_anything_in_it_is_read() {
        let line = b"7 (a) (b) c) S 3 7 7 34817 7 4194304 1 2 3 4 250 150 0 0 20 0 1 0 900 1 2 3\n";
        let expected = Stat {
            name: b"a) (b) c".to_vec(),
            ppid: 3,
            tty: 34817,
            time: 400,
            started: 900,
        };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn terminals_have_their_usual_names() {
        assert_eq!(terminal(34817), "pts/1");
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(4 << 8 | 65), "ttyS1");
        assert_eq!(terminal(5 << 8 | 1), "console");
    }

    #[test]
    fn users_are_looked_up_by_number() {
        let users = b"root:x:0:0::/root:/bin/sh\nbroken\nme:x:1000:1000::/:/bin/sh\n";
        assert_eq!(user(users, 0), Some(&b"root"[..]));
        assert_eq!(user(users, 1000), Some(&b"me"[..]));
        assert_eq!(user(users, 7), None);
    }

    #[test]
    fn a_process_is_listed_with_its_command_and_this_one_is_not() {
        let mut sleeper = std::process::Command::new("sleep")
            .arg("1234")
            .spawn()
            .unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let collector = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let mut output = Output::new(writer.as_fd());
        // Until the child has executed its program.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let listed = list(&mut output).and_then(|()| output.flush());
        drop(writer);
        let text = collector.join().unwrap();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        listed.unwrap();
        let line = std::format!(
            "{{\"pid\":{},\"ppid\":{},",
            sleeper.id(),
            std::process::id()
        );
        let line = text.lines().find(|one| one.starts_with(&line)).unwrap();
        assert!(line.contains("\"uid\":0,\"user\":\"root\""), "{line}");
        assert!(line.ends_with("\"cmd\":\"sleep 1234\"}"), "{line}");
        let own = std::format!("{{\"pid\":{},", std::process::id());
        assert!(!text.contains(&own));
    }
}
