//! A real terminal for tests: a tmux server of the test's own with one pane, in which a shell runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Host, binary, finish, which};

/// Long enough for a VM by emulation on a busy machine, and then something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tmux server with one pane. It ends with the test.
pub struct Terminal {
    socket: PathBuf,
    scratch: PathBuf,
}

impl Terminal {
    /// Starts a pane of 90 columns and 25 rows; None, aloud, where there is no tmux.
    pub fn start(host: &Host) -> Option<Self> {
        if which("tmux").is_none() {
            eprintln!("skipped: terminals, because tmux is not installed");
            return None;
        }
        let scratch = host.scratch().to_path_buf();
        let configuration = scratch.join("tmux.conf");
        fs::write(
            &configuration,
            "set -g status off\nset -g history-limit 5000\n",
        )
        .unwrap();
        let terminal = Self {
            socket: scratch.join("tmux"),
            scratch,
        };
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&terminal.socket)
            .arg("-f")
            .arg(&configuration)
            .args(["new-session", "-d", "-x", "90", "-y", "25", "/bin/sh"])
            .env("PLIMSOLL_ROOT", host.root())
            .env("ENV", "/dev/null")
            .env_remove("TMUX");
        let said = finish(command);
        assert_eq!(said.code, Some(0), "{said:?}");
        terminal.answers(7);
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .env_remove("TMUX");
        finish(command).stdout
    }

    /// Types a line.
    #[track_caller]
    pub fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Types a line that begins with the command under test.
    #[track_caller]
    pub fn plimsoll(&self, arguments: &str) {
        self.types(&format!("{} {arguments}", binary().display()));
    }

    /// Presses keys by tmux's names: `C-p`, `C-d`.
    pub fn presses(&self, keys: &[&str]) {
        for key in keys {
            self.tmux(&["send-keys", key]);
        }
    }

    /// Everything that the pane has shown.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
    }

    /// Waits until something holds, and fails with what the pane shows.
    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "{what}: not after {PATIENCE:?}; the terminal shows:\n{}",
                self.screen().trim_end()
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until the pane shows something.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        self.until(text, || self.screen().contains(text));
    }

    /// Lets the shell in the pane, wherever that is, print a text that is not in the line typed, and waits for it.
    #[track_caller]
    pub fn answers(&self, mark: u32) {
        let half = mark / 2;
        self.types(&format!("echo answer-$(({half}+{}))-", mark - half));
        self.shows(&format!("answer-{mark}-"));
    }

    /// Waits until the pane's own shell has the terminal again.
    #[track_caller]
    pub fn is_outside(&self, mark: u32) {
        let path = self.scratch.join(format!("outside-{mark}"));
        self.until("the shell outside answers", || {
            // What was typed while a command still ran may have been swallowed by it.
            self.types(&format!(": > {}", path.display()));
            std::thread::sleep(Duration::from_millis(200));
            path.exists()
        });
    }

    /// The settings of the pane's terminal, as its own shell sees them.
    #[track_caller]
    pub fn settings(&self, mark: u32) -> String {
        let path = self.scratch.join(format!("settings-{mark}"));
        self.types(&format!(
            "stty -a > {0}.part; mv {0}.part {0}",
            path.display()
        ));
        self.until("the terminal's settings", || path.exists());
        fs::read_to_string(path).unwrap()
    }

    /// Makes the window another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&[
            "resize-window",
            "-x",
            &columns.to_string(),
            "-y",
            &rows.to_string(),
        ]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
        let _ = fs::remove_file(&self.socket);
    }
}
