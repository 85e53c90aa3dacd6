//! A process's stdin, stdout and stderr: pipes, or one pseudo-terminal.

use guest_protocol::{Process, Stream};

use crate::failure::{Context, Failure};
use crate::rootfs::c_string;
use crate::sys::{Errno, Fd, file, mount};

/// The agent's ends.
pub(crate) struct Stdio {
    /// Where the host's stdin goes, if the process has one of its own.
    pub(crate) input: Option<Fd>,
    /// The pipe that the process writes its stdout to; with a terminal, its master.
    pub(crate) output: Option<Fd>,
    /// The pipe that the process writes its stderr to.
    pub(crate) errors: Option<Fd>,
    /// The pseudo-terminal's master.
    pub(crate) terminal: bool,
}

/// The process's ends, on descriptors 0, 1 and 2 once it runs.
pub(crate) struct Ends {
    pub(crate) stdin: Option<Fd>,
    pub(crate) stdout: Option<Fd>,
    pub(crate) stderr: Option<Fd>,
    /// The other side of the pseudo-terminal, in place of all three.
    pub(crate) terminal: Option<Fd>,
}

impl Stdio {
    /// Makes both ends, the agent's without blocking. The main process's terminal is also the console.
    pub(crate) fn make(process: &Process, main: bool) -> Result<(Self, Ends), Failure> {
        match process.terminal {
            Some(_) => Self::terminal(process, main),
            None => Self::pipes(process),
        }
    }

    fn pipes(process: &Process) -> Result<(Self, Ends), Failure> {
        let pipe = || file::pipe().or_fail(|| "make a pipe for stdio");
        let nonblocking =
            |end: &Fd| file::set_nonblocking(end, true).or_fail(|| "set a pipe non-blocking");
        let (stdin, input) = if process.stdin {
            let (reader, writer) = pipe()?;
            nonblocking(&writer)?;
            (reader, Some(writer))
        } else {
            let null = file::open(c"/dev/null", libc::O_RDONLY).or_fail(|| "open /dev/null")?;
            (null, None)
        };
        let (output, stdout) = pipe()?;
        let (errors, stderr) = pipe()?;
        nonblocking(&output)?;
        nonblocking(&errors)?;
        let agent = Self {
            input,
            output: Some(output),
            errors: Some(errors),
            terminal: false,
        };
        let ends = Ends {
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            terminal: None,
        };
        Ok((agent, ends))
    }

    fn terminal(process: &Process, main: bool) -> Result<(Self, Ends), Failure> {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
        let open = || {
            let master = file::open(c"/dev/pts/ptmx", flags)?;
            let slave = file::open_terminal(&master)?;
            if let Some(size) = process.terminal {
                file::set_window_size(&master, size)?;
            }
            Ok((master, slave))
        };
        let (master, slave) = open().or_fail(|| "make a pseudo-terminal")?;
        if main {
            make_console(&master)?;
        }
        let agent = Self {
            input: None,
            output: Some(master),
            errors: None,
            terminal: true,
        };
        let ends = Ends {
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: Some(slave),
        };
        Ok((agent, ends))
    }

    /// Where stdin's bytes are to be written.
    pub(crate) fn sink(&self) -> Option<&Fd> {
        if self.terminal {
            self.output.as_ref()
        } else {
            self.input.as_ref()
        }
    }

    pub(crate) fn source(&self, stream: Stream) -> Option<&Fd> {
        match stream {
            Stream::Stdout => self.output.as_ref(),
            Stream::Stderr => self.errors.as_ref(),
        }
    }

    /// Nothing more is to come from this stream, or is wanted.
    pub(crate) fn close(&mut self, stream: Stream) {
        match stream {
            Stream::Stdout => self.output = None,
            Stream::Stderr => self.errors = None,
        }
    }
}

/// What talks to the console talks to this terminal, as in a container.
fn make_console(master: &Fd) -> Result<(), Failure> {
    let number = file::terminal_number(master).or_fail(|| "ask for the terminal's number")?;
    let name = c_string(&alloc::format!("/dev/pts/{number}"))?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_NOCTTY;
    file::create(c"/dev/console", flags, 0o620)
        .and_then(|_| mount::mount(&name, c"/dev/console", c"", libc::MS_BIND, c""))
        .or_fail(|| "mount the terminal on /dev/console")
}

impl Ends {
    /// Puts the ends in their places, in the process itself, and gives them to its user, who may open /dev/stdout by name.
    pub(crate) fn install(&self, process: &Process) -> Result<(), Errno> {
        let ends = [&self.stdin, &self.stdout, &self.stderr];
        for (number, end) in (0..).zip(ends) {
            if let Some(end) = self.terminal.as_ref().or(end.as_ref()) {
                file::duplicate(end, number)?;
                // /dev/null is everybody's already.
                if process.uid != 0 && (number > 0 || process.stdin || self.terminal.is_some()) {
                    // The terminal keeps its group, tty, as grantpt(3) sets it.
                    let group = if self.terminal.is_some() {
                        u32::MAX
                    } else {
                        process.gid
                    };
                    file::change_owner(number, process.uid, group)?;
                }
            }
        }
        if self.terminal.is_some() {
            file::control_terminal()?;
        }
        Ok(())
    }
}
