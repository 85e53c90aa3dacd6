//! Work between processes: a token passed back and forth, and a new program started.

use std::ffi::CStr;

use super::last_error;
use crate::args::Args;
use crate::clock::Stopwatch;

/// One byte to a child process and back again, over two pipes; one step is a round trip.
pub(crate) fn pipe(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    args.finish()?;
    let [child_in, to_child] = pipe_pair()?;
    let [from_child, child_out] = pipe_pair()?;
    // SAFETY: the child calls only read, write, close and _exit, which are safe after a fork even where the process has
    // other threads.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(last_error("fork"));
    }
    if child == 0 {
        echo(child_in.0, child_out.0, to_child.0, from_child.0);
    }
    let child = Child(child);
    drop((child_in, child_out));
    let result = watch.time(|| {
        for n in 0..iterations {
            let mut byte = n as u8;
            // SAFETY: one byte of ours at both.
            let moved = unsafe {
                let byte = (&raw mut byte).cast();
                libc::write(to_child.0, byte, 1) == 1 && libc::read(from_child.0, byte, 1) == 1
            };
            if !moved {
                return Err(last_error("the pipe to the child broke"));
            }
            if byte != !(n as u8) {
                return Err("the child answered with another byte".to_owned());
            }
        }
        Ok(0)
    });
    drop((to_child, from_child));
    child.wait()?;
    result
}

/// The child's part: every byte back, complemented, until the pipe closes.
fn echo(input: i32, output: i32, unused_write: i32, unused_read: i32) -> ! {
    // SAFETY: the descriptors are this process's copies; the byte is on the stack; _exit ends without running
    // anything that the parent has set up.
    unsafe {
        libc::close(unused_write);
        libc::close(unused_read);
        let mut byte = 0u8;
        while libc::read(input, (&raw mut byte).cast(), 1) == 1 {
            byte = !byte;
            if libc::write(output, (&raw const byte).cast(), 1) != 1 {
                break;
            }
        }
        libc::_exit(0)
    }
}

struct Descriptor(i32);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: owned by this value alone.
        unsafe { libc::close(self.0) };
    }
}

fn pipe_pair() -> Result<[Descriptor; 2], String> {
    let mut pair = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(pair.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(last_error("pipe"));
    }
    Ok(pair.map(Descriptor))
}

/// A child that is waited for exactly once.
struct Child(libc::pid_t);

impl Child {
    fn wait(self) -> Result<(), String> {
        match wait_for(self.0) {
            Ok(0) => Ok(()),
            Ok(status) => Err(format!("a child ended with wait status {status}")),
            Err(error) => Err(error),
        }
    }
}

fn wait_for(pid: libc::pid_t) -> Result<i32, String> {
    let mut status = 0;
    loop {
        // SAFETY: the status is ours to write.
        if unsafe { libc::waitpid(pid, &mut status, 0) } == pid {
            return Ok(status);
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return Err(last_error("waitpid"));
        }
    }
}

/// fork, exec of this program with the argument `true`, and wait.
pub(crate) fn forkexec(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    args.finish()?;
    let program = executable()?;
    let argv = [program.as_ptr(), c"true".as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null()];
    watch.time(|| {
        for _ in 0..iterations {
            // SAFETY: the child calls only execve and _exit, which are safe after a fork even where the process has other
            // threads, with pointers to strings that were made before it.
            let child = unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
                    libc::_exit(127);
                }
                child
            };
            if child < 0 {
                return Err(last_error("fork"));
            }
            Child(child)
                .wait()
                .map_err(|error| format!("{}: {error}", program.to_string_lossy()))?;
        }
        Ok(0)
    })
}

/// The path that this program was executed by, as the kernel was given it: it needs no /proc, and is the same on all arms.
fn executable() -> Result<&'static CStr, String> {
    // SAFETY: getauxval reads what the kernel put on the stack; AT_EXECFN is a string there that lives as long as the
    // process.
    unsafe {
        let name = libc::getauxval(libc::AT_EXECFN);
        if name == 0 {
            return Err("the kernel does not say what was executed".to_owned());
        }
        Ok(CStr::from_ptr(name as *const std::ffi::c_char))
    }
}
