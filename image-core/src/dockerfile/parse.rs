//! Instructions.

use super::flags::Flags;
use super::lines::{self, Line};
use crate::change::json_strings;
use crate::words::{self, Word};
use crate::{Change, Error, Result};

/// Nanoseconds in a second: docker keeps durations so.
const SECOND: u64 = 1_000_000_000;

/// A Dockerfile that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// `ARG`s before the first `FROM`: they can be used in `FROM` lines, and are the defaults of `ARG`s in stages.
    pub arguments: Vec<Instruction>,
    /// The stages, in order. There is at least one.
    pub stages: Vec<Stage>,
}

/// What begins with a `FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The `FROM` itself.
    pub from: Instruction,
    /// The image, an earlier stage, or `scratch`.
    pub image: Word,
    /// `--platform`.
    pub platform: Option<Word>,
    /// `AS name`, in lower case.
    pub name: Option<String>,
    /// The instructions after it.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The line that it begins on, counted from 1.
    pub line: usize,
    /// Its text, continued lines joined.
    pub text: String,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `FROM`; what it says is in [`Stage`].
    From,
    /// `ARG`: names, each with a default or without.
    Arg(Vec<(String, Option<Word>)>),
    /// `RUN`.
    Run(Command),
    /// `COPY`.
    Copy(Transfer),
    /// `ADD` of local files; archives among them are unpacked.
    Add(Transfer),
    /// `CMD`.
    Cmd(Command),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `ENV`, `LABEL`, `EXPOSE`, `VOLUME`, `USER`, `WORKDIR` or `STOPSIGNAL`.
    Change(Change),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `MAINTAINER`.
    Maintainer(Word),
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Files or directories, with patterns.
    pub sources: Vec<Word>,
    /// Where to.
    pub destination: Word,
    /// `--from`: a stage or an image.
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
}

/// `HEALTHCHECK`, in the shape in which docker keeps it. Durations are in nanoseconds; 0 is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`, or `CMD` with a program, or `CMD-SHELL` with a line.
    pub test: Vec<String>,
    /// `--interval`.
    pub interval: u64,
    /// `--timeout`.
    pub timeout: u64,
    /// `--start-period`.
    pub start_period: u64,
    /// `--start-interval`.
    pub start_interval: u64,
    /// `--retries`.
    pub retries: u64,
}

pub(super) fn refuse(line: usize, reason: impl Into<String>) -> Error {
    Error::Dockerfile {
        line,
        reason: reason.into(),
    }
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// [`Error::Dockerfile`], which names the line, for whatever is wrong or not supported.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (escape, lines) = lines::split(bytes)?;
        let mut arguments = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for line in lines {
            let number = line.number;
            let (keyword, rest) = line
                .text
                .split_once(char::is_whitespace)
                .unwrap_or((&line.text, ""));
            let upper = keyword.to_ascii_uppercase();
            if upper == "FROM" {
                let stage = from(&line, rest, escape)?;
                if let Some(name) = &stage.name
                    && stages.iter().any(|known| known.name.as_ref() == Some(name))
                {
                    return Err(refuse(number, format!("there is a stage {name:?} already")));
                }
                stages.push(stage);
                continue;
            }
            let kind = kind(number, &upper, keyword, rest.trim(), escape)?;
            let instruction = Instruction {
                line: number,
                kind,
                text: line.text,
            };
            match stages.last_mut() {
                Some(stage) => stage.instructions.push(instruction),
                None if matches!(instruction.kind, Kind::Arg(_)) => arguments.push(instruction),
                None => {
                    return Err(refuse(
                        number,
                        format!("{upper} stands before the first FROM, where only ARG can"),
                    ));
                }
            }
        }
        if stages.is_empty() {
            return Err(refuse(
                1,
                "it has no FROM: the file is empty or lists no stage",
            ));
        }
        Ok(Self { arguments, stages })
    }
}

fn from(line: &Line, rest: &str, escape: char) -> Result<Stage> {
    let number = line.number;
    let mut flags = Flags::split(number, "FROM", rest);
    let platform = flags.take("platform")?;
    flags.finish()?;
    let word = |text: &str| Word::parse(text, escape).map_err(|reason| refuse(number, reason));
    let (image, name) = match words::split(flags.rest, escape)[..] {
        [image] => (image, None),
        [image, keyword, name] if keyword.eq_ignore_ascii_case("as") => (image, Some(name)),
        _ => {
            return Err(refuse(
                number,
                "FROM takes one image, or an image, AS and a name",
            ));
        }
    };
    let name = name.map(str::to_ascii_lowercase);
    // BuildKit's and docker's pattern for a stage's name.
    if let Some(name) = &name
        && !(name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c)))
    {
        return Err(refuse(
            number,
            format!(
                "invalid name for a stage: {name:?}; it begins with a letter, and holds letters, digits, '-', '_' and '.'"
            ),
        ));
    }
    Ok(Stage {
        from: Instruction {
            line: number,
            text: line.text.clone(),
            kind: Kind::From,
        },
        image: word(image)?,
        platform: platform.map(word).transpose()?,
        name,
        instructions: Vec::new(),
    })
}

fn kind(line: usize, upper: &str, keyword: &str, rest: &str, escape: char) -> Result<Kind> {
    if rest.is_empty() {
        let known = [
            "ARG",
            "RUN",
            "COPY",
            "ADD",
            "CMD",
            "ENTRYPOINT",
            "SHELL",
            "HEALTHCHECK",
            "MAINTAINER",
            "ENV",
            "LABEL",
            "EXPOSE",
            "VOLUME",
            "USER",
            "WORKDIR",
            "STOPSIGNAL",
        ];
        if known.contains(&upper) {
            return Err(refuse(line, format!("{upper} needs an argument")));
        }
    }
    let refused = |reason: String| refuse(line, reason);
    match upper {
        "ARG" => arguments(rest, escape).map(Kind::Arg).map_err(refused),
        "RUN" => {
            let flags = Flags::split(line, "RUN", rest);
            flags.finish()?;
            no_heredoc(line, upper, flags.rest)?;
            if flags.rest.is_empty() {
                return Err(refuse(line, "RUN needs a command"));
            }
            Ok(Kind::Run(command(flags.rest)))
        }
        "COPY" => transfer(line, "COPY", rest, escape).map(Kind::Copy),
        "ADD" => transfer(line, "ADD", rest, escape).map(Kind::Add),
        "CMD" => Ok(Kind::Cmd(command(rest))),
        "ENTRYPOINT" => Ok(Kind::Entrypoint(command(rest))),
        "SHELL" => match json_strings(rest) {
            Some(words) if !words.is_empty() => Ok(Kind::Shell(words)),
            _ => Err(refuse(
                line,
                "SHELL takes a JSON list of strings, such as [\"/bin/bash\", \"-c\"]",
            )),
        },
        "HEALTHCHECK" => healthcheck(line, rest).map(Kind::Healthcheck),
        "MAINTAINER" => Word::parse(rest, escape)
            .map(Kind::Maintainer)
            .map_err(refused),
        "ENV" | "LABEL" | "EXPOSE" | "VOLUME" | "USER" | "WORKDIR" | "STOPSIGNAL" => {
            let change = Change::parse(&format!("{upper} {rest}"), escape);
            change.map(Kind::Change).map_err(|error| match error {
                Error::InvalidChange { reason, .. } => refused(reason),
                other => other,
            })
        }
        "ONBUILD" => Err(refuse(
            line,
            "ONBUILD is not supported: write its instruction into the Dockerfile that uses the image",
        )),
        _ => Err(refuse(line, format!("unknown instruction: {keyword}"))),
    }
}

/// A JSON array of strings is a program and its arguments; anything else is a line for the shell.
fn command(text: &str) -> Command {
    match json_strings(text) {
        Some(words) => Command::Exec(words),
        None => Command::Shell(text.to_owned()),
    }
}

fn arguments(text: &str, escape: char) -> Result<Vec<(String, Option<Word>)>, String> {
    words::split(text, escape)
        .into_iter()
        .map(|word| {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(Word::parse(value, escape)?)),
                None => (word, None),
            };
            let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if !begins || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(format!("{name:?} is not the name of an ARG"));
            }
            Ok((name.to_owned(), value))
        })
        .collect()
}

fn transfer(line: usize, keyword: &'static str, rest: &str, escape: char) -> Result<Transfer> {
    let mut flags = Flags::split(line, keyword, rest);
    let from = if keyword == "COPY" {
        flags.take("from")?
    } else {
        None
    };
    let (chown, chmod) = (flags.take("chown")?, flags.take("chmod")?);
    flags.finish()?;
    no_heredoc(line, keyword, flags.rest)?;
    let word = |text: &str| Word::parse(text, escape).map_err(|reason| refuse(line, reason));
    let mut paths = match json_strings(flags.rest) {
        // Quotes and escapes belong to JSON there, variables do not.
        Some(paths) => paths
            .iter()
            .map(|path| word(&quoted(path, escape)))
            .collect::<Result<Vec<_>>>()?,
        None => words::split(flags.rest, escape)
            .into_iter()
            .map(word)
            .collect::<Result<Vec<_>>>()?,
    };
    let destination = paths.pop().filter(|_| !paths.is_empty());
    let Some(destination) = destination else {
        return Err(refuse(
            line,
            format!("{keyword} needs at least two arguments: what, and where to"),
        ));
    };
    Ok(Transfer {
        sources: paths,
        destination,
        from: from.map(word).transpose()?,
        chown: chown.map(word).transpose()?,
        chmod: chmod.map(word).transpose()?,
    })
}

/// A text in double quotes, in which only variables mean something.
fn quoted(text: &str, escape: char) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if c == '"' || c == escape {
            quoted.push(escape);
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Refuses `<<WORD`, by which newer Dockerfiles bring files along.
fn no_heredoc(line: usize, keyword: &str, text: &str) -> Result<()> {
    let is_heredoc = |word: &str| {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let Some(name) = rest.strip_prefix("<<") else {
            return false;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let name = name.trim_matches(['"', '\'']);
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    };
    if text.split_whitespace().any(is_heredoc) && json_strings(text).is_none() {
        return Err(refuse(
            line,
            format!("heredocs are not supported in {keyword}: use continued lines, or COPY a file"),
        ));
    }
    Ok(())
}

fn healthcheck(line: usize, rest: &str) -> Result<Healthcheck> {
    let mut flags = Flags::split(line, "HEALTHCHECK", rest);
    let mut time = |name: &str| -> Result<u64> {
        let Some(text) = flags.take(name)? else {
            return Ok(0);
        };
        duration(text).ok_or_else(|| {
            refuse(
                line,
                format!("HEALTHCHECK --{name}={text} is not a duration such as 30s"),
            )
        })
    };
    let mut check = Healthcheck {
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        ..Healthcheck::default()
    };
    if let Some(text) = flags.take("retries")? {
        check.retries = text.parse().map_err(|_| {
            refuse(
                line,
                format!("HEALTHCHECK --retries={text} is not a number"),
            )
        })?;
    }
    flags.finish()?;
    let (word, rest) = flags
        .rest
        .split_once(char::is_whitespace)
        .unwrap_or((flags.rest, ""));
    let rest = rest.trim();
    check.test = match (word.to_ascii_uppercase().as_str(), rest) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", rest) if !rest.is_empty() => match command(rest) {
            Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text],
        },
        _ => {
            return Err(refuse(line, "HEALTHCHECK takes NONE, or CMD and a command"));
        }
    };
    Ok(check)
}

/// Go's durations, as `1m30s` or `500ms`, in nanoseconds.
fn duration(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let unit = rest.get(digits..)?;
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let scale = match unit.get(..end)? {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(scale)?)?;
        rest = unit.get(end..)?;
    }
    (!text.is_empty()).then_some(total)
}
