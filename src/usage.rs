//! A command line that cannot be read, told in docker's words and with its exit codes: 1 where the number of arguments is
//! wrong or the command is unknown, 125 where a flag is.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use crate::ENGINE_FAILED;
use crate::cli::Cli;

/// The sentence and the exit code for what docker has words for; None where clap's own message is the better one.
pub(crate) fn explain(error: &clap::Error, words: &[String]) -> Option<(String, u8)> {
    let root = Cli::command();
    let (command, name) = command(&root, words);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let see = format!("see '{name} --help'");
    let did_you_mean =
        |kind| text(kind).map_or_else(String::new, |known| format!(", did you mean {known}?"));
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            let missing = text(ContextKind::InvalidArg)?;
            missing
                .starts_with('<')
                .then(|| (format!("\"{name}\" {}: {see}", wanted(command, false)), 1))
        }
        ErrorKind::UnknownArgument => {
            let argument = text(ContextKind::InvalidArg)?;
            if argument.starts_with("--") {
                let tip = did_you_mean(ContextKind::SuggestedArg);
                return Some((
                    format!("unknown flag: {argument}{tip} {see}"),
                    ENGINE_FAILED,
                ));
            }
            if let Some(letter) = argument.strip_prefix('-') {
                let whole = words
                    .iter()
                    .find(|word| {
                        word.starts_with('-') && !word.starts_with("--") && word.contains(letter)
                    })
                    .cloned()
                    .unwrap_or_else(|| argument.clone());
                return Some((
                    format!("unknown shorthand flag: '{letter}' in {whole}: {see}"),
                    ENGINE_FAILED,
                ));
            }
            Some((format!("\"{name}\" {}: {see}", wanted(command, true)), 1))
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand)?;
            let tip = did_you_mean(ContextKind::SuggestedSubcommand);
            Some((format!("'{word}' is not a {name} command{tip} {see}"), 1))
        }
        ErrorKind::InvalidValue => {
            let flag = text(ContextKind::InvalidArg)?;
            let flag = flag
                .split(' ')
                .next()
                .filter(|flag| flag.starts_with('-'))?;
            let value = text(ContextKind::InvalidValue).filter(|value| !value.is_empty())?;
            let Some(ContextValue::Strings(known)) = error.get(ContextKind::ValidValue) else {
                return None;
            };
            Some((
                format!(
                    "invalid argument {value:?} for {flag:?}: one of {} is wanted",
                    known.join(", ")
                ),
                ENGINE_FAILED,
            ))
        }
        _ => None,
    }
}

/// The command that the words lead to, and its whole name.
fn command<'c>(root: &'c Command, words: &[String]) -> (&'c Command, String) {
    let mut command = root;
    let mut name = root.get_name().to_owned();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--root" {
            words.next();
            continue;
        }
        if word.starts_with('-') {
            continue;
        }
        let Some(verb) = command.find_subcommand(word) else {
            break;
        };
        command = verb;
        name = format!("{name} {}", verb.get_name());
    }
    (command, name)
}

/// How many arguments a command takes, in docker's words.
fn wanted(command: &Command, too_many: bool) -> String {
    let count = |number: usize| match number {
        1 => "1 argument".to_owned(),
        _ => format!("{number} arguments"),
    };
    let least = command
        .get_positionals()
        .filter(|argument| argument.is_required_set())
        .count();
    let most = command
        .get_positionals()
        .try_fold(0_usize, |sum, argument| {
            let bounded = matches!(argument.get_action(), clap::ArgAction::Set);
            bounded.then_some(sum + 1)
        });
    match most {
        Some(0) => "accepts no arguments".into(),
        Some(most) if most == least => format!("requires exactly {}", count(most)),
        Some(most) if too_many => format!("requires at most {}", count(most)),
        _ => format!("requires at least {}", count(least)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn said(line: &str) -> Option<(String, u8)> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let all = std::iter::once("plimsoll".to_owned()).chain(words.iter().cloned());
        explain(&Cli::try_parse_from(all).unwrap_err(), &words)
    }

    #[test]
    fn a_value_that_is_none_of_those_known_is_told_with_them() {
        assert_eq!(
            said("run --backend moon image"),
            Some((
                "invalid argument \"moon\" for \"--backend\": one of container, vm, toolbox is wanted".to_owned(),
                125
            ))
        );
    }

    #[test]
    fn a_wrong_number_of_arguments_is_told_with_the_right_one() {
        for (line, wanted) in [
            (
                "rm",
                "\"plimsoll rm\" requires at least 1 argument: see 'plimsoll rm --help'",
            ),
            (
                "--root /x rm",
                "\"plimsoll rm\" requires at least 1 argument: see 'plimsoll rm --help'",
            ),
            (
                "run",
                "\"plimsoll run\" requires at least 1 argument: see 'plimsoll run --help'",
            ),
            (
                "ps extra",
                "\"plimsoll ps\" accepts no arguments: see 'plimsoll ps --help'",
            ),
            (
                "rename one",
                "\"plimsoll rename\" requires exactly 2 arguments: see 'plimsoll rename --help'",
            ),
            (
                "logs tail 2",
                "\"plimsoll logs\" requires exactly 1 argument: see 'plimsoll logs --help'",
            ),
            (
                "volume rm",
                "\"plimsoll volume rm\" requires at least 1 argument: see 'plimsoll volume rm --help'",
            ),
        ] {
            assert_eq!(said(line), Some((wanted.to_owned(), 1)), "{line}");
        }
    }

    #[test]
    fn an_unknown_flag_is_named() {
        let (text, code) = said("ps --no-such-flag").unwrap();
        assert!(text.starts_with("unknown flag: --no-such-flag"), "{text}");
        assert_eq!(code, ENGINE_FAILED);
        let (text, code) = said("rename two -bad").unwrap();
        assert!(
            text.starts_with("unknown shorthand flag: 'b' in -bad"),
            "{text}"
        );
        assert_eq!(code, ENGINE_FAILED);
    }

    #[test]
    fn an_unknown_command_is_named() {
        let (text, code) = said("strat x").unwrap();
        assert!(
            text.starts_with("'strat' is not a plimsoll command"),
            "{text}"
        );
        assert_eq!(code, 1);
    }

    #[test]
    fn what_clap_tells_better_is_left_to_it() {
        assert_eq!(said("run --cpus x image"), None);
        assert_eq!(said("--help"), None);
    }
}
