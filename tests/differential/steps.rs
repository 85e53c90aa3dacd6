//! A step: a command for both engines, or a look at the host, and what is compared of it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Said, finish};
use crate::normal::normal;

/// The image that both have.
pub(crate) const IMAGE: &str = "differential/base";

/// What is done in a step.
#[derive(Clone, Copy)]
enum Action {
    /// A command line without the program's name. `$I` is the image, `$D` a directory of the engine's own on the host. `run`
    /// and `create` get `--network none`.
    Command(&'static str),
    /// Something on the host, in that directory, and what is seen there.
    Host(&'static str, fn(&Path) -> String),
}

/// What is compared of standard error.
#[derive(Clone, Copy)]
enum Errors {
    /// All of it.
    Same,
    /// Both say these words somewhere, in whatever case; docker's `exec` tells failures on standard output.
    Words(&'static [&'static str]),
}

/// What is done on both engines.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    action: Action,
    input: &'static str,
    errors: Errors,
    /// Lines have no order.
    sorted: bool,
    /// Why they differ, and docker's and our exit codes.
    differs: Option<(&'static str, i32, i32)>,
    /// Why this is not done with VMs.
    not_in_vms: Option<&'static str>,
}

/// A command all of whose output is compared.
pub(crate) const fn both(line: &'static str) -> Step {
    Step {
        action: Action::Command(line),
        input: "",
        errors: Errors::Same,
        sorted: false,
        differs: None,
        not_in_vms: None,
    }
}

/// A command that fails, both times with these words on standard error.
pub(crate) const fn error(line: &'static str, words: &'static [&'static str]) -> Step {
    Step {
        errors: Errors::Words(words),
        ..both(line)
    }
}

/// A `cp`: docker 28 and Plimsoll tell on standard error what was copied, docker 20.10 does not.
pub(crate) const fn copy(line: &'static str) -> Step {
    error(line, &[])
}

/// Something on the host, in the engine's own directory.
pub(crate) const fn host(what: &'static str, look: fn(&Path) -> String) -> Step {
    Step {
        action: Action::Host(what, look),
        ..both("")
    }
}

impl Step {
    /// Gives this on standard input.
    pub(crate) const fn input(self, input: &'static str) -> Self {
        Self { input, ..self }
    }

    /// The lines of standard output have no order.
    pub(crate) const fn unordered(self) -> Self {
        Self {
            sorted: true,
            ..self
        }
    }

    /// They differ, for this reason, with these exit codes of docker's and ours. It is an error if they do not.
    pub(crate) const fn differs(self, why: &'static str, docker: i32, ours: i32) -> Self {
        Self {
            differs: Some((why, docker, ours)),
            ..self
        }
    }

    /// With VMs this is another thing, for this reason.
    pub(crate) const fn not_for_vms(self, why: &'static str) -> Self {
        Self {
            not_in_vms: Some(why),
            ..self
        }
    }

    pub(crate) fn not_in_vms(&self) -> Option<&'static str> {
        self.not_in_vms
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.action {
            Action::Command(line) => line,
            Action::Host(what, _) => what,
        }
    }

    /// What is different, if it should not be.
    pub(crate) fn compare(&self, docker: &Said, ours: &Said) -> Result<(), String> {
        let tell = |what: &str| {
            Err(format!(
                "* {}\n  {what}\n  docker:   {}\n  plimsoll: {}",
                self.name(),
                brief(docker),
                brief(ours)
            ))
        };
        let missing = match self.errors {
            Errors::Same => None,
            Errors::Words(words) => words.iter().find(|word| {
                let word = word.to_lowercase();
                [docker, ours].iter().any(|said| {
                    let all = format!("{}{}", said.stdout, said.stderr).to_lowercase();
                    !all.contains(&word)
                })
            }),
        };
        let equal = docker.code == ours.code
            && match self.errors {
                Errors::Same => docker.stdout == ours.stdout && docker.stderr == ours.stderr,
                Errors::Words(_) => missing.is_none(),
            };
        if let Some((why, docker_code, our_code)) = self.differs {
            if docker.code != Some(docker_code) || ours.code != Some(our_code) {
                return tell("an exit code is not the one that was known");
            }
            if equal {
                return tell("was known to differ, and does not");
            }
            eprintln!("known to differ: {}: {why}", self.name());
            return Ok(());
        }
        if equal {
            return Ok(());
        }
        tell(&if docker.code != ours.code {
            "exit codes".to_owned()
        } else if let Some(word) = missing {
            format!("{word:?} is not said by both")
        } else if docker.stdout != ours.stdout {
            "standard output".to_owned()
        } else {
            "standard error".to_owned()
        })
    }
}

fn brief(said: &Said) -> String {
    format!(
        "{} out={:?} err={:?}",
        said.code
            .map_or_else(|| "-".into(), |code| code.to_string()),
        said.stdout,
        said.stderr
    )
}

/// One of the two.
pub(crate) struct Engine<'a> {
    pub(crate) name: &'static str,
    scratch: PathBuf,
    command: Box<dyn Fn() -> Command + 'a>,
    /// Flags that `run` and `create` get.
    flags: Vec<&'static str>,
}

impl<'a> Engine<'a> {
    pub(crate) fn new(
        name: &'static str,
        scratch: &Path,
        flags: &[&'static str],
        command: impl Fn() -> Command + 'a,
    ) -> Self {
        let scratch = scratch.join("scratch");
        fs::create_dir_all(&scratch).unwrap();
        Self {
            name,
            scratch,
            command: Box::new(command),
            flags: [&["--network", "none"], flags].concat(),
        }
    }

    /// Makes the image. It has a command, a variable and a label.
    pub(crate) fn import(&self, archive: &[u8]) {
        let tar = self.scratch.join("image.tar");
        fs::write(&tar, archive).unwrap();
        let mut command = (self.command)();
        command.arg("import");
        for change in ["CMD [\"sh\"]", "ENV OF_IMAGE=yes", "LABEL of=image"] {
            command.args(["-c", change]);
        }
        command.arg(&tar).arg(IMAGE);
        let said = finish(command);
        assert_eq!(said.code, Some(0), "{}: {said:?}", self.name);
        fs::remove_file(tar).unwrap();
    }

    /// Removes every instance.
    pub(crate) fn clean(&self) {
        let mut command = (self.command)();
        command.args(["ps", "-aq"]);
        let all = finish(command).stdout;
        if !all.trim().is_empty() {
            let mut command = (self.command)();
            command
                .args(["rm", "-f", "-v"])
                .args(all.split_whitespace());
            finish(command);
        }
    }

    /// Does a step.
    pub(crate) fn run(&self, step: &Step) -> Said {
        let mut said = match step.action {
            Action::Host(_, look) => Said {
                code: Some(0),
                stdout: look(&self.scratch),
                stderr: String::new(),
            },
            Action::Command(line) => {
                let mut command = (self.command)();
                command.args(self.words(line));
                if step.input.is_empty() {
                    finish(command)
                } else {
                    let path = self.scratch.join(".input");
                    let mut file = fs::File::create(&path).unwrap();
                    file.write_all(step.input.as_bytes()).unwrap();
                    command.stdin(Stdio::from(fs::File::open(&path).unwrap()));
                    let said = finish(command);
                    fs::remove_file(path).unwrap();
                    said
                }
            }
        };
        said.stdout = normal(&said.stdout, &self.scratch);
        said.stderr = normal(&said.stderr, &self.scratch);
        if step.sorted {
            let mut lines: Vec<&str> = said.stdout.lines().collect();
            lines.sort_unstable();
            said.stdout = lines.join("\n");
        }
        said
    }

    fn words(&self, line: &str) -> Vec<String> {
        let mut words = split(line);
        for word in &mut words {
            *word = word
                .replace("$D", &self.scratch.to_string_lossy())
                .replace("$I", IMAGE);
        }
        if let Some(at) = words
            .iter()
            .take(2)
            .position(|word| word == "run" || word == "create")
            && words.first().is_some_and(|word| word != "volume")
        {
            words.splice(at + 1..=at, self.flags.iter().map(|&flag| flag.to_owned()));
        }
        words
    }
}

/// Words as a shell cuts them, with quotes of both kinds.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}
