use proptest::prelude::*;

use super::*;
use crate::{Error, Word};

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(text.as_bytes()).unwrap()
}

/// The line and the reason of a refusal.
fn refused(text: &[u8]) -> (usize, String) {
    match Dockerfile::parse(text).unwrap_err() {
        Error::Dockerfile { line, reason } => (line, reason),
        other => panic!("{other}"),
    }
}

#[test]
fn lines_are_joined_and_comments_inside_them_left_out() {
    let file = parse(
        "# a comment\n\nfrom scratch\nRUN a \\\n  # in between\n\n  b \\  \n  c\n  CMD [\"x\"]\r\n",
    );
    let stage = &file.stages[0];
    assert_eq!(
        (stage.from.line, stage.from.text.as_str()),
        (3, "from scratch")
    );
    assert_eq!(stage.instructions[0].line, 4);
    assert_eq!(
        stage.instructions[0].kind,
        Kind::Run(Command::Shell("a   b   c".into()))
    );
    assert_eq!(stage.instructions[1].line, 9);
    assert_eq!(
        stage.instructions[1].kind,
        Kind::Cmd(Command::Exec(vec!["x".into()]))
    );
}

#[test]
fn a_doubled_backslash_does_not_continue_a_line() {
    let file = parse("FROM scratch\nRUN a\\\\\nCMD b");
    assert_eq!(file.stages[0].instructions.len(), 2);
}

#[test]
fn the_escape_directive_changes_what_continues_a_line_and_what_escapes() {
    let file =
        parse("# syntax=docker/dockerfile:1\n# escape=`\nFROM scratch\nCOPY c:\\a `\n  /b\\\n");
    let Kind::Copy(copy) = &file.stages[0].instructions[0].kind else {
        panic!("{file:?}");
    };
    assert_eq!(copy.sources, [Word::from("c:\\a")]);
    assert_eq!(copy.destination, Word::from("/b\\"));
    // After anything else it is a comment.
    assert!(Dockerfile::parse(b"# x\n# escape=!\nFROM scratch").is_ok());
    assert_eq!(refused(b"# escape=!\nFROM scratch").0, 1);
}

#[test]
fn stages_have_names_and_arguments_may_stand_before_the_first() {
    let file = parse(
        "ARG V=1 W\nFROM --platform=linux/amd64 debian:$V AS Base\nARG V\nFROM base\nCOPY --from=base --chown=1:2 --chmod=755 /a /b /c/\n",
    );
    assert_eq!(file.arguments.len(), 1);
    assert_eq!(file.stages[0].name.as_deref(), Some("base"));
    assert_eq!(file.stages[0].platform, Some(Word::from("linux/amd64")));
    let Kind::Copy(copy) = &file.stages[1].instructions[0].kind else {
        panic!("{file:?}");
    };
    assert_eq!(copy.sources.len(), 2);
    assert_eq!(copy.from, Some(Word::from("base")));
    assert_eq!(copy.chown, Some(Word::from("1:2")));
}

#[test]
fn json_paths_hold_blanks_and_quotes() {
    let file = parse("FROM scratch\nCOPY [\"a b\", \"c\\\"d\\\\e\", \"/f/\"]\n");
    let Kind::Copy(copy) = &file.stages[0].instructions[0].kind else {
        panic!("{file:?}");
    };
    assert_eq!(copy.sources, [Word::from("a b"), Word::from("c\"d\\e")]);
}

#[test]
fn a_health_check_is_kept_in_dockers_shape() {
    let file = parse(
        "FROM scratch\nHEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD curl x\nHEALTHCHECK NONE",
    );
    let Kind::Healthcheck(check) = &file.stages[0].instructions[0].kind else {
        panic!("{file:?}");
    };
    assert_eq!(check.test, ["CMD-SHELL", "curl x"]);
    assert_eq!(
        (check.interval, check.timeout, check.retries),
        (90_000_000_000, 500_000_000, 3)
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_line() {
    for (text, line, words) in [
        ("FROM scratch\nONBUILD RUN x", 2, "ONBUILD"),
        ("FROM scratch\n\nRUN --mount=type=cache x", 3, "--mount"),
        ("FROM scratch\nRUN --security=insecure x", 2, "--security"),
        ("FROM scratch\nCOPY --link a b", 2, "--link"),
        ("FROM scratch\nADD --checksum=x a b", 2, "--checksum"),
        ("FROM scratch\nADD --from=x a b", 2, "--from"),
        ("FROM scratch\nRUN <<EOF\nx\nEOF", 2, "heredocs"),
        ("FROM scratch\nCOPY <<-\"EOF\" /x", 2, "heredocs"),
        ("FROM scratch\nINCLUDE x", 2, "unknown instruction: INCLUDE"),
        ("FROM scratch\nRUN", 2, "RUN needs"),
        ("FROM scratch\nCOPY a", 2, "two arguments"),
        ("FROM scratch\nENV A", 2, "NAME=VALUE"),
        ("FROM scratch\nARG 1x", 2, "ARG"),
        ("FROM scratch\nSHELL bash", 2, "JSON"),
        ("FROM scratch\nHEALTHCHECK x", 2, "HEALTHCHECK"),
        (
            "FROM scratch\nHEALTHCHECK --interval=x CMD y",
            2,
            "duration",
        ),
        ("FROM a b", 1, "FROM"),
        ("FROM a AS 1x", 1, "stage"),
        ("FROM a AS x\nFROM b AS X", 2, "already"),
        ("RUN x\nFROM a", 1, "before the first FROM"),
        ("# nothing\n", 1, "no FROM"),
        ("", 1, "no FROM"),
        ("FROM a\nENV A=${B", 2, "missing"),
        ("FROM a\nRUN\0", 2, "NUL"),
    ] {
        let (found, reason) = refused(text.as_bytes());
        assert_eq!(found, line, "{text:?}: {reason}");
        assert!(reason.contains(words), "{text:?}: {reason}");
    }
    assert_eq!(refused(b"FROM a\nRUN \xff").0, 2);
}

#[test]
fn a_herestring_is_no_heredoc() {
    assert!(Dockerfile::parse(b"FROM a\nRUN cat <<< word; echo $((1<<2))").is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Dockerfile::parse(&bytes);
        let _ = Dockerfile::parse(&[b"FROM a\n", &bytes[..]].concat());
    }

    #[test]
    fn no_instruction_makes_it_panic(
        keyword in "(FROM|ARG|RUN|COPY|ADD|CMD|ENTRYPOINT|ENV|LABEL|EXPOSE|VOLUME|USER|WORKDIR|STOPSIGNAL|SHELL|HEALTHCHECK|MAINTAINER)",
        rest in "[-=$a-z{}:\\\\\"'\\[\\], \n<#`]{0,60}",
    ) {
        let _ = Dockerfile::parse(format!("FROM a\n{keyword} {rest}").as_bytes());
    }

    #[test]
    fn what_is_read_has_the_lines_that_it_stands_on(lines in proptest::collection::vec("(RUN x|# y||ENV A=b)", 0..20)) {
        let text = format!("FROM a\n{}", lines.join("\n"));
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        for instruction in &file.stages[0].instructions {
            prop_assert_eq!(text.lines().nth(instruction.line - 1), Some(instruction.text.as_str()));
        }
    }
}
