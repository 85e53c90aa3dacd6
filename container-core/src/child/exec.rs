//! Finding the command and executing it.

use std::convert::Infallible;
use std::ffi::CStr;

use super::report::{Outcome, Refusal};
use super::{HERE, Setup};
use crate::sys::file;
use crate::sys::{self, Errno, process};

/// How many interpreters of interpreters the kernel follows (BINPRM's recursion bound, fs/exec.c).
const INTERPRETER_DEPTH: usize = 5;
/// What the kernel reads of a script's first line (BINPRM_BUF_SIZE, uapi/linux/binfmts.h).
const SCRIPT_LINE: usize = 256;

impl Setup<'_> {
    /// Tries the candidates as execvp(3) does. Returns only when none could be executed.
    pub(super) fn execute(&self) -> Outcome<Infallible> {
        let plan = &self.plan.process;
        let mut refusal = Refusal::Kernel;
        let mut last = Errno(libc::ENOENT);
        for candidate in &plan.candidates {
            let errno = process::execute(candidate, &plan.arguments, &plan.environment);
            match errno.0 {
                // It may be the interpreter that is missing, not the file.
                libc::ENOENT if file::fstatat(HERE, candidate, 0).is_ok() => {
                    return self.refuse(Refusal::Interpreter, errno);
                }
                libc::ENOENT | libc::ENOTDIR => {
                    if last == Errno(libc::ENOENT) {
                        last = errno;
                    }
                }
                // A directory, or a file without the right to execute it: a later one in the path may do better.
                libc::EACCES => {
                    let is_directory = file::fstatat(HERE, candidate, 0)
                        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
                    last = if is_directory {
                        Errno(libc::EISDIR)
                    } else {
                        errno
                    };
                    refusal = Refusal::Kernel;
                }
                _ => return self.refuse(Refusal::Kernel, errno),
            }
        }
        self.refuse(refusal, last)
    }

    /// An image must not get this program's own file executed by way of /proc/self/exe, for from inside the file could
    /// then be opened for writing (CVE-2019-5736). It may name it as the command, through a link, or as the
    /// interpreter of a script.
    pub(super) fn refuse_own_program(&self) -> Outcome<()> {
        for candidate in &self.plan.process.candidates {
            if self.leads_to_own_program(candidate) {
                return self.refuse(Refusal::OwnProgram, Errno(libc::EPERM));
            }
        }
        Ok(())
    }

    fn leads_to_own_program(&self, path: &CStr) -> bool {
        let mut line = [0_u8; SCRIPT_LINE + 1];
        let mut next;
        let mut current = path;
        for _ in 0..=INTERPRETER_DEPTH {
            let Ok(stat) = file::fstatat(HERE, current, 0) else {
                return false;
            };
            if (stat.st_dev, stat.st_ino) == self.own_program {
                return true;
            }
            if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
                return false;
            }
            let Some(interpreter) = interpreter(current, &mut line) else {
                return false;
            };
            next = *interpreter;
            match CStr::from_bytes_until_nul(&next) {
                Ok(path) => current = path,
                Err(_) => return false,
            }
        }
        false
    }
}

/// The interpreter that a script names in its first line, terminated.
fn interpreter<'b>(
    path: &CStr,
    line: &'b mut [u8; SCRIPT_LINE + 1],
) -> Option<&'b [u8; SCRIPT_LINE + 1]> {
    let read: sys::Result<usize> = file::openat(HERE, path, libc::O_RDONLY | libc::O_NONBLOCK, 0)
        .and_then(|fd| {
            let read = file::read(fd, line.get_mut(..SCRIPT_LINE).unwrap_or_default());
            file::close(fd);
            read
        });
    let length = read.ok()?;
    let text = line.get(..length)?.strip_prefix(b"#!")?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = 2 + text.iter().position(|byte| !blank(byte))?;
    let name = line.get(start..length)?;
    let end = name
        .iter()
        .position(|byte| blank(byte) || matches!(byte, b'\n' | 0))
        .unwrap_or(name.len());
    line.copy_within(start..start + end, 0);
    *line.get_mut(end)? = 0;
    (end > 0).then_some(line)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::io::Write;

    use super::*;

    fn of(script: &[u8]) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(script).unwrap();
        let path = CString::new(file.path().to_str().unwrap()).unwrap();
        let mut line = [0; SCRIPT_LINE + 1];
        let found = interpreter(&path, &mut line)?;
        Some(
            CStr::from_bytes_until_nul(found)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
        )
    }

    #[test]
    fn a_script_names_its_interpreter_as_the_kernel_reads_it() {
        assert_eq!(of(b"#!/bin/sh\necho").as_deref(), Some("/bin/sh"));
        assert_eq!(
            of(b"#! \t/proc/self/exe -x\n").as_deref(),
            Some("/proc/self/exe")
        );
        assert_eq!(of(b"#!/bin/sh").as_deref(), Some("/bin/sh"));
        assert_eq!(of(b"#!\n"), None);
        assert_eq!(of(b"\x7fELF"), None);
        assert_eq!(of(b""), None);
    }

    #[test]
    fn an_overlong_first_line_is_cut_where_the_kernel_cuts_it() {
        let mut script = b"#!/".to_vec();
        script.extend(std::iter::repeat_n(b'x', 400));
        assert_eq!(of(&script).unwrap().len(), SCRIPT_LINE - 2);
    }
}
